//! What a call answers when it cannot do what was asked: Connect's error codes.
//!
//! Source: Connect protocol reference, "Error codes" and "HTTP to error code".

use std::io;

use http::StatusCode;

/// A code for the caller's program and a text for a person.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// Which kind.
    pub code: Code,
    /// What and why.
    pub message: String,
}

/// The codes we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The request cannot be right.
    InvalidArgument,
    /// No such path, process or route.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// The user may not.
    PermissionDenied,
    /// Disk, or a bound of ours.
    ResourceExhausted,
    /// We do not offer that.
    Unimplemented,
    /// Token or user is wrong.
    Unauthenticated,
    /// Too late.
    DeadlineExceeded,
    /// Anything else.
    Internal,
}

impl Code {
    /// Its name on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unimplemented => "unimplemented",
            Self::Unauthenticated => "unauthenticated",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status of a unary answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::InvalidArgument => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists => StatusCode::CONFLICT,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl Error {
    /// An error of that kind.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The request cannot be right.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// No such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// The user may not.
    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, message)
    }

    /// Token or user is wrong.
    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Code::Unauthenticated, message)
    }

    /// What the kernel said about `what`.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::NotFound,
            io::ErrorKind::AlreadyExists => Code::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Code::PermissionDenied
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
            io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::ArgumentListTooLong
            | io::ErrorKind::InvalidData => Code::InvalidArgument,
            io::ErrorKind::TimedOut => Code::DeadlineExceeded,
            _ => Code::Internal,
        };
        if code == Code::NotFound {
            return Self::not_found(format!("{what} was not found"));
        }
        Self::new(code, format!("{what}: {}", words(error).to_lowercase()))
    }

    /// The HTTP status outside Connect: a full disk is 507 there.
    pub(crate) const fn http_status(&self) -> StatusCode {
        match self.code {
            Code::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
            code => code.status(),
        }
    }
}

/// The kernel's words, without the number that the standard library puts behind them.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_errors_keep_their_meaning() {
        for (errno, code) in [
            (libc::ENOENT, Code::NotFound),
            (libc::ENOSPC, Code::ResourceExhausted),
            (libc::EDQUOT, Code::ResourceExhausted),
            (libc::EACCES, Code::PermissionDenied),
            (libc::EPERM, Code::PermissionDenied),
            (libc::ENOTDIR, Code::InvalidArgument),
            (libc::E2BIG, Code::InvalidArgument),
            (libc::EIO, Code::Internal),
        ] {
            assert_eq!(Error::io("x", &io::Error::from_raw_os_error(errno)).code, code, "{errno}");
        }
        let denied = Error::io("/x", &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(denied.message, "/x: permission denied");
    }
}
