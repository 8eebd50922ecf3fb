//! Why a plan is refused.

use core::fmt;

/// What is wrong with a plan, and where.
///
/// A plan is public, so its fields may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// The field, as in `docs/abi.md`.
    pub field: &'static str,
    /// Which entry of it, where it is a list.
    pub index: Option<usize>,
    /// What is wrong.
    pub reason: &'static str,
}

impl PlanError {
    pub(crate) const fn new(field: &'static str, reason: &'static str) -> Self {
        Self {
            field,
            index: None,
            reason,
        }
    }

    pub(crate) const fn at(field: &'static str, index: usize, reason: &'static str) -> Self {
        Self {
            field,
            index: Some(index),
            reason,
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            None => write!(f, "{}: {}", self.field, self.reason),
            Some(index) => write!(f, "{}[{index}]: {}", self.field, self.reason),
        }
    }
}

impl core::error::Error for PlanError {}
