//! Which instructions an image's target needs, and whether this processor has them.
//!
//! The lists are the x86-64 psABI's micro-architecture levels, the CPU's random numbers, which every image draws from, and AES,
//! which stretches them into samples and noise.

use std::arch::is_x86_feature_detected;

use crate::refusal::{Reason, Refusal};

/// Targets that an image can be built for.
const TARGETS: [&str; 3] = ["x86-64-v3", "x86-64-v3-vaes", "x86-64-v4"];

/// A name for people of what `target` needs and whether the processor has it, in the order of the levels; `None` if it is none
/// of [`TARGETS`].
fn detected(target: &str) -> Option<Vec<(&'static str, bool)>> {
    let (level, vaes) = match target {
        "x86-64-v3" => (3, false),
        "x86-64-v3-vaes" => (3, true),
        "x86-64-v4" => (4, true),
        _ => return None,
    };
    let mut list = vec![
        ("SSE3", is_x86_feature_detected!("sse3")),
        ("SSSE3", is_x86_feature_detected!("ssse3")),
        ("SSE4.1", is_x86_feature_detected!("sse4.1")),
        ("SSE4.2", is_x86_feature_detected!("sse4.2")),
        ("POPCNT", is_x86_feature_detected!("popcnt")),
        ("CMPXCHG16B", is_x86_feature_detected!("cmpxchg16b")),
        ("AVX", is_x86_feature_detected!("avx")),
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("BMI1", is_x86_feature_detected!("bmi1")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("LZCNT", is_x86_feature_detected!("lzcnt")),
        ("MOVBE", is_x86_feature_detected!("movbe")),
        ("RDRAND", is_x86_feature_detected!("rdrand")),
        ("RDSEED", is_x86_feature_detected!("rdseed")),
        ("AES", is_x86_feature_detected!("aes")),
    ];
    if level >= 4 {
        list.extend([
            ("AVX-512 F", is_x86_feature_detected!("avx512f")),
            ("AVX-512 BW", is_x86_feature_detected!("avx512bw")),
            ("AVX-512 CD", is_x86_feature_detected!("avx512cd")),
            ("AVX-512 DQ", is_x86_feature_detected!("avx512dq")),
            ("AVX-512 VL", is_x86_feature_detected!("avx512vl")),
        ]);
    }
    if vaes {
        list.push(("VAES", is_x86_feature_detected!("vaes")));
    }
    Some(list)
}

/// Refuses a list with something missing, naming all that is missing.
fn judge(target: &str, features: &[(&'static str, bool)]) -> Result<(), Refusal> {
    let missing: Vec<&str> = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the image was built for {target}; this processor has no {}. Run it on one that has, or build for a lower target",
        missing.join(", ")
    );
    Err(Refusal::new(Reason::CpuFeaturesMissing, message))
}

/// Checks that this processor can run an image built for `target`.
///
/// # Errors
/// [`Reason::TargetUnknown`] for another target than those there are, [`Reason::CpuFeaturesMissing`] with the names of
/// what is missing.
pub fn check(target: &str) -> Result<(), Refusal> {
    let Some(features) = detected(target) else {
        let shown: String = target.chars().take(64).flat_map(char::escape_default).collect();
        let known = TARGETS.join(", ");
        let message = format!("the image was built for \"{shown}\"; this loader knows {known}");
        return Err(Refusal::new(Reason::TargetUnknown, message));
    };
    judge(target, &features)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    #[test]
    fn names_everything_that_is_missing() {
        let features = [("AVX2", true), ("AVX-512 F", false), ("AVX-512 VL", false)];
        let refusal = judge("x86-64-v4", &features).expect_err("two are missing");
        assert_eq!(refusal.reason, Reason::CpuFeaturesMissing);
        assert!(refusal.message.contains("no AVX-512 F, AVX-512 VL."), "{refusal}");
    }

    #[test]
    fn every_target_asks_for_what_its_images_are_compiled_with() {
        let names = |target: &str| -> Vec<&str> {
            detected(target).expect("a target").into_iter().map(|(name, _)| name).collect()
        };
        let wide = ["AVX-512 F", "AVX-512 BW", "AVX-512 CD", "AVX-512 DQ", "AVX-512 VL"];
        for target in TARGETS {
            assert!(
                ["AVX2", "FMA", "RDRAND", "RDSEED", "AES"].iter().all(|name| names(target).contains(name)),
                "{target}"
            );
            assert_eq!(names(target).contains(&"VAES"), target != "x86-64-v3", "{target}");
            assert!(wide.iter().all(|name| names(target).contains(name) == (target == "x86-64-v4")), "{target}");
        }
    }

    #[test]
    fn a_processor_without_wide_aes_is_refused_the_target_that_has_it() {
        let mut features = detected("x86-64-v3-vaes").expect("a target");
        for (name, there) in &mut features {
            *there = *name != "VAES";
        }
        let refusal = judge("x86-64-v3-vaes", &features).expect_err("VAES is missing");
        assert_eq!(refusal.reason, Reason::CpuFeaturesMissing);
        assert!(refusal.message.contains("x86-64-v3-vaes; this processor has no VAES."), "{refusal}");
    }

    #[test]
    fn unknown_target_is_shown_escaped_and_cut() {
        let refusal = check(&"\u{1b}".repeat(1000)).expect_err("unknown");
        assert_eq!(refusal.reason, Reason::TargetUnknown);
        assert!(refusal.message.len() < 1000 && refusal.message.is_ascii());
    }
}
