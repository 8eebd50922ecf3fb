//! How the process that holds the image ends, as an exit code, and what the supervisor says of it.

/// An orderly end: everything but a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The host closed the input between two frames.
    InputClosed,
    /// The image was refused; the first frame says why.
    Refused,
    /// The arguments are wrong.
    Usage,
    /// The enclave stopped itself; its last answer says why.
    EnclaveDead,
    /// The input ended inside a frame.
    InputTruncated,
    /// The image answered what no image may: a code or a length outside the interface.
    ImageMisbehaved,
    /// The host closed the output.
    OutputClosed,
    /// The image made a fault in its virtual machine or SGX enclave, which has nothing that could handle one.
    Faulted,
    /// The virtual machine or SGX enclave failed, by no doing of the image.
    MachineFailed,
}

const ALL: [Ending; 9] = [
    Ending::InputClosed,
    Ending::Refused,
    Ending::Usage,
    Ending::EnclaveDead,
    Ending::InputTruncated,
    Ending::ImageMisbehaved,
    Ending::OutputClosed,
    Ending::Faulted,
    Ending::MachineFailed,
];

impl Ending {
    /// The exit code.
    pub fn code(self) -> i32 {
        match self {
            Self::InputClosed => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::EnclaveDead => 3,
            Self::InputTruncated => 4,
            Self::ImageMisbehaved => 5,
            Self::OutputClosed => 6,
            Self::Faulted => 7,
            Self::MachineFailed => 8,
        }
    }

    /// The ending that has this exit code.
    pub fn of(code: i32) -> Option<Self> {
        ALL.into_iter().find(|ending| ending.code() == code)
    }

    /// What to tell people; `None` where there is nothing to tell.
    pub fn message(self) -> Option<&'static str> {
        match self {
            Self::InputClosed | Self::Refused | Self::Usage => None,
            Self::EnclaveDead => Some("the enclave has stopped itself; its last answer says why"),
            Self::InputTruncated => Some("the input ended inside a frame"),
            Self::ImageMisbehaved => Some("the image answered outside its interface and was stopped"),
            Self::OutputClosed => Some("the output was closed"),
            Self::Faulted => Some(
                "the enclave was stopped by a fault in its virtual machine or SGX enclave: an access that its memory does \
                 not allow, reading the clock, a system call, or an instruction that its processor does not have",
            ),
            Self::MachineFailed => Some(
                "the virtual machine or SGX enclave failed: KVM could not go on, or the machine has slept and lost the \
                 enclave's memory; see the kernel's log, and start again",
            ),
        }
    }
}
