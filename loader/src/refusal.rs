//! Why the loader did not run an image.
//!
//! One flat list of reasons: each has a stable name, which the Python side shows, and a message for people.

use std::fmt;

/// What stopped the loader before the image ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A layer that must hold (no new privileges, seccomp) could not be applied.
    NotSealed,
    /// The image file is not of the form that `docs/abi.md` describes.
    ImageMalformed,
    /// The image file is longer than the loader reads.
    ImageTooLarge,
    /// The image file could not be read.
    ImageUnreadable,
    /// The manifest names a target that this loader does not know.
    TargetUnknown,
    /// The processor lacks instructions that the image's target needs.
    CpuFeaturesMissing,
    /// There is no room for the image's memory.
    MemoryMissing,
    /// A thread could not be started.
    ThreadsMissing,
    /// The backend that was asked for is not to be had on this machine.
    BackendMissing,
    /// SIGSTRUCT could not be read, or has not its length.
    SignatureUnreadable,
    /// The driver or the processor does not take the enclave.
    EnclaveRefused,
    /// The image did not accept its launch message.
    LaunchRefused,
}

impl Reason {
    /// The stable name used in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSealed => "not_sealed",
            Self::ImageMalformed => "image_malformed",
            Self::ImageTooLarge => "image_too_large",
            Self::ImageUnreadable => "image_unreadable",
            Self::TargetUnknown => "target_unknown",
            Self::CpuFeaturesMissing => "cpu_features_missing",
            Self::MemoryMissing => "memory_missing",
            Self::ThreadsMissing => "threads_missing",
            Self::BackendMissing => "backend_missing",
            Self::SignatureUnreadable => "signature_unreadable",
            Self::EnclaveRefused => "enclave_refused",
            Self::LaunchRefused => "launch_refused",
        }
    }
}

/// A reason with its particulars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which kind of reason.
    pub reason: Reason,
    /// What was expected, what was got, what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal of kind `reason` that says `message`.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Shorthand for [`Reason::ImageMalformed`].
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Reason::ImageMalformed, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.reason.name(), self.message)
    }
}

impl std::error::Error for Refusal {}
