//! Errors that cross the boundary: the same numbers and names as `docs/errors.toml`, which a test compares.
//!
//! ```text
//! Error { code: Code, detail, fatal }
//! └── Code: 1xx form of a message, 2xx order, 3xx contract, 4xx attestation, 5xx keys,
//!           6xx data, 7xx plan and kernels, 8xx budget and broker, 9xx fatal
//! ```
//!
//! An error's detail goes to the host, who is not trusted: it holds public facts only (field names, limits, lengths,
//! indices that the host chose itself), never a value from a dataset or anything derived from a key.

use alloc::borrow::Cow;
use core::fmt;

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $meaning:literal;)*) => {
        /// What went wrong, by its number in `docs/errors.toml`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = concat!("`", $name, "`: ", $meaning, ".")] $variant = $number,)*
        }

        impl Code {
            /// Every code, in ascending order of number.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name in `docs/errors.toml`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// The meaning in `docs/errors.toml`.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    OversizedMessage = 101, "oversized_message", "longer than its limit";
    MalformedMessage = 102, "malformed_message", "not the deterministic CBOR of the expected shape";
    UnknownField = 103, "unknown_field", "a field that this version does not know";
    UnknownMessage = 104, "unknown_message", "no such message code or verb";
    OutOfOrder = 201, "out_of_order", "not accepted in this state";
    AlreadyGiven = 202, "already_given", "was given before";
    ContractMalformed = 301, "contract_malformed", "the contract is not of its form";
    SignatureMissing = 302, "signature_missing", "a party has not signed";
    SignatureInvalid = 303, "signature_invalid", "a signature does not verify";
    WrongMeasurement = 304, "wrong_measurement", "the contract names another image";
    WrongPlan = 305, "wrong_plan", "the contract names another plan or mechanism than the image has";
    ContractExpired = 306, "contract_expired", "the contract has expired";
    NotAParty = 307, "not_a_party", "the key or index belongs to no such party";
    WrongContract = 308, "wrong_contract", "belongs to another contract";
    EvidenceUnreadable = 401, "evidence_unreadable", "the evidence cannot be parsed";
    EvidenceRefused = 402, "evidence_refused", "the appraisal policy does not trust the evidence";
    NonceUnknown = 403, "nonce_unknown", "the nonce was not issued, was used, or is too old";
    WrongPolicy = 404, "wrong_policy", "another appraisal policy than the contract's";
    GrantUnsealable = 501, "grant_unsealable", "the grant does not open for this boot";
    GrantMixed = 502, "grant_mixed", "some owners resume and others start afresh; ask all for fresh";
    ShareInconsistent = 503, "share_inconsistent", "the shares do not make the run's job key";
    ReceiptInvalid = 504, "receipt_invalid", "the deposit receipt does not verify";
    NoShare = 505, "no_share", "no share was deposited for this contract; nothing to resume";
    DepositUnsealable = 506, "deposit_unsealable", "the deposited share does not open";
    DataHeaderInvalid = 601, "data_header_invalid", "the dataset header is not of its form or not the contract's";
    DataChunkInvalid = 602, "data_chunk_invalid", "a chunk does not decrypt at this place";
    DataDigestMismatch = 603, "data_digest_mismatch", "the file is not the one in the contract";
    DataRecordInvalid = 604, "data_record_invalid", "a record holds a value outside the schema";
    DataTooLarge = 605, "data_too_large", "more records than the image has room for";
    PlanInvalid = 701, "plan_invalid", "the plan fails a check";
    KernelFailed = 702, "kernel_failed", "a kernel returned an error";
    ThreadUnavailable = 703, "thread_unavailable", "the slot is in use or does not exist";
    BudgetExhausted = 801, "budget_exhausted", "the ledger does not allow this event";
    LedgerUnwritable = 802, "ledger_unwritable", "the ledger could not be written durably; nothing was released";
    LedgerDamaged = 803, "ledger_damaged", "the ledger fails its own check";
    DatasetUnknown = 804, "dataset_unknown", "this broker holds no key for that dataset";
    LedgerRolledBack = 805, "ledger_rolled_back", "an anchor remembers more than the ledger: an older copy was put back";
    AnchorUnavailable = 806, "anchor_unavailable", "an anchor that the contract names did not answer; ask again later";
    Revoked = 807, "revoked", "the owner has revoked this contract, measurement or run";
    QuotaExhausted = 808, "quota_exhausted", "the researcher's or the dataset's quota does not allow this event";
    TooManyRequests = 809, "too_many_requests", "more requests than this broker answers; ask again later";
    LogInconsistent = 810, "log_inconsistent", "the log contradicts what it said before";
    Rehearsal = 811, "rehearsal", "this broker only rehearses; nothing was released";
    KeyUnavailable = 812, "key_unavailable", "where the data key is kept did not give it; ask again later";
    Dead = 901, "dead", "the enclave has stopped itself";
    EntropyFailed = 902, "entropy_failed", "the processor gave no random numbers";
}

impl Code {
    /// The number in `docs/errors.toml`.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// An error with what the untrusted host may know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Which error.
    pub code: Code,
    /// Public detail for a person: the thing, what was expected, what was got. Never secret.
    pub detail: Cow<'static, str>,
    /// Whether the enclave must stop itself: the state can no longer be what it was before the message.
    pub fatal: bool,
}

impl Error {
    /// An error that leaves the state as it was. Errors of the 9xx range are always fatal.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fatal: code.number() >= 900,
        }
    }

    /// The same error, after which the enclave wipes itself and answers only [`Code::Dead`].
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}): {}",
            self.code.name(),
            self.code.number(),
            self.detail
        )
    }
}

impl core::error::Error for Error {}
