//! Lists in parts: by page, by offset or by cursor, the same for every list.
//!
//! Promises: the order is stable; a value that cannot be used is refused by name and never
//! replaced by another, because a caller that is given less than it asked for takes that for the
//! end; what is counted is counted only for who asked by page.

use axum::extract::FromRequestParts;
use http::request::Parts;
use miosa_store::{List, Window, list::KeyKind};
use miosa_wire::envelope::{Listed, PageOf};
use serde::Deserialize;
use sqlx::AnyConnection;

use crate::{Error, Json, Query};

/// Rows if the caller names no limit.
const DEFAULT_LIMIT: u32 = 100;
/// Most rows of a part.
const MAX_LIMIT: u32 = 1000;
/// Rows of a page if the caller names no size.
const DEFAULT_PAGE: u32 = 20;
/// Most rows of a page.
const MAX_PAGE: u32 = 100;

/// The query parameters of every list: name, JSON type, what it does.
pub(crate) const PARAMETERS: &[(&str, &str, &str)] = &[
    ("page", "integer", "Number of the page, from 1; the answer tells the `total`."),
    ("page_size", "integer", "Rows of a page, at most 100; 20 if not given."),
    ("limit", "integer", "Most rows, at most 1000; 100 if not given."),
    ("offset", "integer", "How many to leave out."),
    ("cursor", "string", "`next_cursor` of the part before."),
];

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paging {
    after: Option<String>,
    offset: u64,
    limit: u32,
    /// Number of the page, if asked for so.
    page: Option<u32>,
}

/// One part.
#[derive(Debug)]
pub(crate) struct Part<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) next_cursor: Option<String>,
    pub(crate) page: Option<PageOf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    page: Option<String>,
    page_size: Option<String>,
    limit: Option<String>,
    offset: Option<String>,
    cursor: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Query(given) = Query::<Given>::from_request_parts(parts, state).await?;
        plan(&given)
    }
}

/// What is asked for. Pure.
fn plan(given: &Given) -> Result<Paging, Error> {
    let page = number("page", given.page.as_deref(), 1, u32::MAX)?;
    let size = number("page_size", given.page_size.as_deref(), 1, MAX_PAGE)?;
    let limit = number("limit", given.limit.as_deref(), 1, MAX_LIMIT)?;
    let offset = number("offset", given.offset.as_deref(), 0, u32::MAX)?;
    let after = given.cursor.clone().filter(|cursor| !cursor.is_empty());
    if page.is_some() || size.is_some() {
        for (field, is_given) in [("offset", offset.is_some()), ("cursor", after.is_some())] {
            if is_given {
                return Err(wrong(field, "cannot go with `page` or `page_size`"));
            }
        }
        let size = size.or(limit.map(|limit| limit.min(MAX_PAGE))).unwrap_or(DEFAULT_PAGE);
        let page = page.unwrap_or(1);
        let offset = u64::from(page - 1) * u64::from(size);
        return Ok(Paging { after: None, offset, limit: size, page: Some(page) });
    }
    if after.is_some() && offset.is_some() {
        return Err(wrong("offset", "cannot go with `cursor`"));
    }
    let offset = u64::from(offset.unwrap_or(0));
    Ok(Paging { after, offset, limit: limit.unwrap_or(DEFAULT_LIMIT), page: None })
}

fn number(
    field: &'static str,
    text: Option<&str>,
    min: u32,
    max: u32,
) -> Result<Option<u32>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ if max == u32::MAX => Err(wrong(field, &format!("must be a whole number from {min}"))),
        _ => Err(wrong(field, &format!("must be a whole number from {min} to {max}"))),
    }
}

fn wrong(field: &'static str, why: &str) -> Error {
    Error::Invalid { field, message: format!("`{field}` {why}") }
}

impl Paging {
    /// One more than is shown, to know whether there is more.
    fn window(&self) -> Window {
        Window { after: self.after.clone(), offset: self.offset, limit: self.limit + 1 }
    }

    /// Reads the part of a list in the database.
    pub(crate) async fn read<T>(
        &self,
        db: &mut AnyConnection,
        list: &List<T>,
    ) -> Result<Part<T>, Error> {
        let is_key = |text: &String| match list.key_kind {
            KeyKind::Id => uuid::Uuid::try_parse(text).is_ok(),
            KeyKind::Number => text.parse::<u32>().is_ok(),
        };
        if !self.after.as_ref().is_none_or(is_key) {
            return Err(wrong("cursor", "is not from an earlier part"));
        }
        let mut rows = list.window(db, &self.window()).await?;
        let total = match self.page {
            Some(_) => list.count(db).await?,
            None => 0,
        };
        let next_cursor = self.cut(&mut rows).then(|| rows.last().map(|row| list.key_of(row)));
        Ok(self.part(rows, next_cursor.flatten(), total))
    }

    /// The part of a list that is in memory as a whole, in a stable order.
    pub(crate) fn of<T>(
        &self,
        all: Vec<T>,
        key_of: impl Fn(&T) -> String,
    ) -> Result<Part<T>, Error> {
        let total = u64::try_from(all.len()).unwrap_or(u64::MAX);
        let start = match &self.after {
            None => usize::try_from(self.offset).unwrap_or(usize::MAX),
            Some(after) => match all.iter().position(|row| key_of(row) == *after) {
                Some(found) => found + 1,
                None => return Err(wrong("cursor", "is not from an earlier part")),
            },
        };
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut rows: Vec<T> = all.into_iter().skip(start).take(most.saturating_add(1)).collect();
        let next_cursor = self.cut(&mut rows).then(|| rows.last().map(&key_of));
        Ok(self.part(rows, next_cursor.flatten(), total))
    }

    /// Takes away the one that was too many; says whether there was one.
    fn cut<T>(&self, rows: &mut Vec<T>) -> bool {
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let is_more = rows.len() > most;
        rows.truncate(most);
        is_more
    }

    fn part<T>(&self, rows: Vec<T>, next_cursor: Option<String>, total: u64) -> Part<T> {
        let page_size = self.limit;
        let page = self.page.map(|page| PageOf { page, page_size, total });
        Part { rows, next_cursor, page }
    }
}

impl<T> Part<T> {
    /// As an answer.
    pub(crate) fn show<U>(self, show: impl FnMut(T) -> U) -> Json<Listed<U>> {
        let Self { rows, next_cursor, page } = self;
        Json(Listed { data: rows.into_iter().map(show).collect(), next_cursor, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str) -> Result<Paging, Error> {
        let uri: http::Uri = format!("/?{query}").parse().unwrap();
        let given = axum::extract::Query::<Given>::try_from_uri(&uri).unwrap().0;
        plan(&given)
    }

    #[test]
    fn each_style_has_its_window() {
        let part = |after: Option<&str>, offset, limit, page| Paging {
            after: after.map(str::to_owned),
            offset,
            limit,
            page,
        };
        for (query, expected) in [
            ("", part(None, 0, 100, None)),
            ("limit=&cursor=&page=", part(None, 0, 100, None)),
            ("limit=7&offset=14", part(None, 14, 7, None)),
            ("limit=1000&cursor=x", part(Some("x"), 0, 1000, None)),
            ("page=3", part(None, 40, 20, Some(3))),
            ("page_size=100", part(None, 0, 100, Some(1))),
            ("page=2&limit=500", part(None, 100, 100, Some(2))),
            ("page=4294967295&page_size=100", part(None, 429_496_729_400, 100, Some(u32::MAX))),
        ] {
            assert_eq!(asked(query).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (query, wrong) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=ten", "limit"),
            ("offset=-1", "offset"),
            ("page=0", "page"),
            ("page=1.5", "page"),
            ("page_size=101", "page_size"),
            ("page=1&offset=3", "offset"),
            ("page_size=5&cursor=x", "cursor"),
            ("cursor=x&offset=0", "offset"),
        ] {
            let error = asked(query).unwrap_err();
            assert!(matches!(error, Error::Invalid { field, .. } if field == wrong), "{query}");
        }
    }

    #[test]
    fn a_list_in_memory_is_walked_in_each_style() {
        let all: Vec<u32> = (0..25).collect();
        let part = |query: &str| asked(query).unwrap().of(all.clone(), u32::to_string).unwrap();
        let first = part("limit=10");
        assert_eq!((first.rows.len(), first.next_cursor.as_deref()), (10, Some("9")));
        assert_eq!(part("limit=10&cursor=9").rows, (10..20).collect::<Vec<_>>());
        let last = part("limit=15&cursor=9");
        assert_eq!((last.rows.len(), last.next_cursor), (15, None), "there is no more");
        assert_eq!(part("limit=10&offset=20").rows, [20, 21, 22, 23, 24]);
        let page = part("page=2");
        assert_eq!(page.rows, [20, 21, 22, 23, 24]);
        assert_eq!(page.page, Some(PageOf { page: 2, page_size: 20, total: 25 }));
        assert!(asked("cursor=99").unwrap().of(all, u32::to_string).is_err());
    }
}
