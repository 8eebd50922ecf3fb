//! Landlock: a rule set that handles everything the kernel knows and allows nothing.

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};

use crate::report::Layer;

/// Newest Landlock interface whose access rights are named here; an older kernel denies what it knows.
const NEWEST: ABI = ABI::V10;

/// Denies every file, network and signalling access that Landlock can deny.
pub fn deny_all() -> Layer {
    let restrict = || -> Result<_, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .restrict_self()
    };
    match restrict() {
        Err(error) => Layer::missing("landlock", error.to_string()),
        Ok(status) => match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
                Layer::missing("landlock", "not enabled in this kernel")
            }
            (RulesetStatus::NotEnforced, _) => Layer::missing("landlock", "not in this kernel"),
            (_, LandlockStatus::Available { effective_abi, .. }) => {
                Layer::applied("landlock", format!("all denied, ABI {}", effective_abi as i32))
            }
            _ => Layer::missing("landlock", "the kernel gave no ABI"),
        },
    }
}
