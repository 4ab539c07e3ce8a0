//! What is still open: client connections, and tunnels that left HTTP behind.
//!
//! A shutdown is over when this is empty or its limit has passed. hyper knows nothing of an
//! upgraded connection, so it is counted here by a guard of its own.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts what is open.
#[derive(Debug, Default)]
pub(crate) struct Open {
    count: Arc<watch::Sender<usize>>,
}

/// Something that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenGuard(Arc<watch::Sender<usize>>);

impl Open {
    pub(crate) fn enter(&self) -> OpenGuard {
        self.count.send_modify(|count| *count += 1);
        OpenGuard(self.count.clone())
    }

    pub(crate) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Ends when nothing is open.
    pub(crate) async fn empty(&self) {
        let mut receiver = self.count.subscribe();
        // The sender lives as long as `self`.
        let _ = receiver.wait_for(|count| *count == 0).await;
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_is_empty_when_the_last_guard_is_gone() {
        let open = Open::default();
        let (a, b) = (open.enter(), open.enter());
        assert!(open.empty().now_or_never().is_none());
        drop((a, b));
        open.empty().await;
        assert_eq!(open.count(), 0);
    }
}
