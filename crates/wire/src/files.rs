//! Files of a sandbox (contract: `miosa-api` 2.3).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST …/fs/write`, one file of `…/fs/write-many`, and the older `POST …/files`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = WriteFile)]
pub struct Write {
    /// Absolute, or relative to the working folder.
    pub path: String,
    /// Content as base64.
    pub content_base64: Option<String>,
    /// Content as text; as base64 on the older route.
    pub content: Option<String>,
}

/// `POST …/fs/write-many`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = WriteFiles)]
pub struct WriteMany {
    /// The files.
    pub files: Vec<Write>,
}

/// What became of each file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WrittenFiles)]
pub struct Written {
    /// Paths that were written.
    pub written: Vec<String>,
    /// Paths that were not.
    pub failed: Vec<Failed>,
}

/// A file that was not written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = FailedFile)]
pub struct Failed {
    /// Its path.
    pub path: String,
    /// Why.
    pub error: String,
}

/// A path in a body.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = FilePath)]
pub struct PathBody {
    /// Absolute, or relative to the working folder.
    pub path: String,
}

/// Answer to `POST …/fs/write` and to other calls that make something at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WrittenFile)]
pub struct Saved {
    /// Absolute path.
    pub path: String,
    /// Bytes that were written, where the content came in a JSON body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
}

/// Answer to `POST …/fs/move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MovedFile)]
pub struct Moved {
    /// Where it was.
    pub from: String,
    /// Where it is.
    pub path: String,
}

/// `POST …/fs/move`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = MoveFile)]
pub struct Move {
    /// What to move.
    #[serde(alias = "source")]
    pub from: String,
    /// Its new path.
    #[serde(alias = "dest", alias = "destination")]
    pub to: String,
}

/// `?path=&depth=`.
#[derive(Clone, Debug, Deserialize)]
pub struct ListQuery {
    /// Absolute, or relative to the working folder, which is the default.
    pub path: Option<String>,
    /// Levels.
    pub depth: Option<u32>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = FileEntry)]
pub struct Entry {
    /// Last part of the path.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// `file`, `dir`, `symlink` or `other`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Length in bytes.
    pub size: u64,
    /// Permissions, as `0644`.
    pub mode: String,
    /// User.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Last change.
    pub modified_at: Option<String>,
    /// Where a link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// `GET …/files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = FileList)]
pub struct Listing {
    /// The folder.
    pub path: String,
    /// What is in it.
    pub entries: Vec<Entry>,
}

/// A node of `GET …/files/tree`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = FileTree)]
pub struct Node {
    /// The entry itself.
    #[serde(flatten)]
    pub entry: Entry,
    /// What is in it, down to the asked depth.
    #[schema(no_recursion)]
    pub children: Vec<Node>,
}
