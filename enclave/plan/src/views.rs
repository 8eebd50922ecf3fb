//! Views of records: what the runtime makes of a record before kernels see it.

use crate::check::{Result, get};
use crate::{PADDING_LIMIT, Plan, PlanError};

/// Augmentations are of images, float32 `[microbatch × views, channels, height, width]`, and known; a crop moves an image by
/// less than its size. Where a record has several views there is something that tells them apart, and a physical batch is one
/// record: what kernels sum over its views is that record's gradient.
pub(crate) fn check_views(plan: &Plan) -> Result<()> {
    let dp = &plan.dp;
    if dp.views == 0 {
        return Err(PlanError::new("views", "zero"));
    }
    if dp.views > 1 && dp.augment.is_empty() {
        return Err(PlanError::new("views", "several, and all the same"));
    }
    if dp.views > 1 && dp.microbatch != 1 {
        let reason = "several of each record, and several records to a batch";
        return Err(PlanError::new("views", reason));
    }
    for (position, augmentation) in dp.augment.iter().enumerate() {
        let refuse = |reason| PlanError::at("augment", position, reason);
        let features = get(plan, "features", plan.roles.features)?;
        let &[_, _, height, width] = features.shape.as_slice() else {
            return Err(refuse("not of images"));
        };
        match (augmentation.name.as_str(), augmentation.numbers.as_slice()) {
            ("flip", []) => {}
            ("crop" | "reflected-crop", &[padding]) => {
                let size = height.min(width).unsigned_abs();
                if padding == 0 || padding > PADDING_LIMIT || padding >= size {
                    return Err(refuse("its padding is not of the image's size"));
                }
            }
            _ => return Err(refuse("none that is known")),
        }
    }
    Ok(())
}
