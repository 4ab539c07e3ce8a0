//! Rows under headings, in columns. Pure.

/// Lines of a table; the last column is not padded. Long cells are not cut: a name that cannot be
/// read is of no use.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(length);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(length(cell));
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - length(cell) + 2));
        }
        line.trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| row.each_ref().map(String::as_str));
    std::iter::once(headings).chain(rows).map(line).collect()
}

fn length(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ä".into(), "1".into()], ["longer".into(), String::new()]];
        assert_eq!(table(["A", "COUNT"], &rows), "A       COUNT\nä       1\nlonger\n");
    }
}
