//! See the workspace manifest.
#![cfg_attr(not(test), no_std)]
