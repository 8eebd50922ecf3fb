//! Evidence of an AWS Nitro enclave, for its measured init.

pub mod nsm;
