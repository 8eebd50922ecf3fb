//! What the crate `image` gives the entry: a handler of messages.

/// Bytes of each slot's stack. In an image an unmapped page lies below each, so that overflow faults.
pub const STACK_BYTES: usize = 512 * 1024;

/// What the handler of messages answers.
pub struct Reply {
    /// The reply, at most [`myelin_abi::MESSAGE_BYTES`].
    pub bytes: alloc::vec::Vec<u8>,
    /// Whether the enclave stops itself after this reply: the caller gets [`myelin_abi::exit::DEAD`] with it.
    pub stop: bool,
}

/// Makes a function `fn(&[u8]) -> Reply` the handler of the image's messages. Used once, by the crate `image`.
#[macro_export]
macro_rules! entry {
    ($handle:path) => {
        #[unsafe(no_mangle)]
        fn myelin_message(request: &[u8]) -> $crate::Reply {
            $handle(request)
        }
    };
}
