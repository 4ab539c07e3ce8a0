//! Files of a sandbox: `/fs/*`, and the older `/files/*`.

use miosa_wire::files as wire;

use crate::openapi::operation::{
    Access::{self, Scope},
    Operation, Parameter, bytes, delete, get, nothing, post, put,
};

const READ: Access = Scope("sandboxes:read");
const WRITE: Access = Scope("sandboxes:write");

/// The sandbox does not run, has no space left, or stopped answering.
const AWAY: &[u16] = &[409, 502];

const PATH: &[Parameter] =
    &[("path", "string", "Absolute, or relative to the working folder. Required.")];

const FOLDER: &[Parameter] = &[
    ("path", "string", "Absolute, or relative to the working folder, which is the default."),
    ("depth", "integer", "Levels, at most 20."),
];

pub(super) fn files() -> Vec<Operation> {
    let upload = |operation: Operation| {
        operation.query(PATH).takes_shape(bytes()).makes::<wire::Saved>().fails(AWAY)
    };
    let write =
        |operation: Operation| operation.takes::<wire::Write>().makes::<wire::Saved>().fails(AWAY);
    let write_many = |operation: Operation| {
        operation.takes::<wire::WriteMany>().shows::<wire::Written>().fails(AWAY)
    };
    let list = |operation: Operation| operation.query(FOLDER).shows::<wire::Listing>().fails(AWAY);
    let stat = |operation: Operation| {
        operation.takes::<wire::PathBody>().shows::<wire::Entry>().fails(AWAY)
    };
    vec![
        list(get("/sandboxes/{id}/fs/list", "listFiles", READ, "What is in a folder")),
        get("/sandboxes/{id}/fs/download", "downloadFile", READ, "A file's content")
            .query(PATH)
            .gives(200, bytes())
            .fails(AWAY),
        stat(post("/sandboxes/{id}/fs/stat", "statFile", READ, "Size, kind and times of a file")),
        write(post("/sandboxes/{id}/fs/write", "writeFile", WRITE, "Writes a file")),
        write_many(post("/sandboxes/{id}/fs/write-many", "writeFiles", WRITE, "Writes many files")),
        upload(put("/sandboxes/{id}/fs/upload", "uploadFile", WRITE, "Writes the body to a file")),
        upload(post("/sandboxes/{id}/fs/upload", "uploadFilePost", WRITE, "The same by POST")),
        post("/sandboxes/{id}/fs/mkdir", "makeFolder", WRITE, "Makes a folder")
            .takes::<wire::PathBody>()
            .makes::<wire::Saved>()
            .fails(AWAY),
        post("/sandboxes/{id}/fs/move", "moveFile", WRITE, "Moves a file or folder")
            .takes::<wire::Move>()
            .shows::<wire::Moved>()
            .fails(AWAY),
        post("/sandboxes/{id}/fs/remove", "removeFile", WRITE, "Deletes a file or folder")
            .takes::<wire::PathBody>()
            .gives(204, nothing())
            .fails(AWAY),
        list(get("/sandboxes/{id}/files", "listFilesOld", READ, "Same as `fs/list`")),
        write(post("/sandboxes/{id}/files", "writeFileOld", WRITE, "Writes base64 to a file")),
        delete("/sandboxes/{id}/files", "removeFileOld", WRITE, "Deletes a file or folder")
            .query(PATH)
            .gives(204, nothing())
            .fails(AWAY),
        get("/sandboxes/{id}/files/tree", "getFileTree", READ, "A folder and what is below it")
            .query(FOLDER)
            .shows::<wire::Node>()
            .fails(AWAY),
        stat(post("/sandboxes/{id}/files/stat", "statFileOld", READ, "Same as `fs/stat`")),
        write_many(post(
            "/sandboxes/{id}/files/write-many",
            "writeFilesOld",
            WRITE,
            "Same as `fs/write-many`",
        )),
        get("/sandboxes/{id}/files/{*path}", "downloadFileOld", READ, "A file's content")
            .gives(200, bytes())
            .fails(AWAY),
    ]
}
