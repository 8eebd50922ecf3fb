//! Masks of dropout layers: what the runtime draws for every example.

use crate::check::{Result, get};
use crate::{MASK_GROUPS_LIMIT, Plan, PlanError, TensorType};

/// Words that are made at once, one an element: a layer's begin with a group of their own.
const GROUP: usize = 256;

/// The masks' tensors.
pub(crate) fn masks(plan: &Plan) -> impl Iterator<Item = usize> + '_ {
    plan.roles.masks.iter().map(|role| role.tensor)
}

/// A mask is float32, a row an example (each view of a record is one); a kept element is multiplied by the inverse of the probability that it is; and there
/// are words for all. That kernels only read masks, and each batch has its own, is shown with the other inputs of a batch.
pub(crate) fn check_masks(plan: &Plan) -> Result<()> {
    let mut groups = 0_usize;
    for (position, role) in plan.roles.masks.iter().enumerate() {
        let refuse = |reason| PlanError::at("masks", position, reason);
        let tensor = get(plan, "masks", role.tensor)?;
        if tensor.dtype != TensorType::Float32
            || tensor.shape.first() != Some(&(plan.examples() as i64))
        {
            return Err(refuse("not float32 [microbatch × views, …]"));
        }
        if role.threshold == 0 {
            return Err(refuse("keeps nothing"));
        }
        let inverse = 4_294_967_296.0 / f64::from(role.threshold);
        if role.scale.to_bits() != (inverse as f32).to_bits() {
            return Err(refuse(
                "its scale is not the inverse of what its threshold keeps",
            ));
        }
        let elements = (tensor.count / plan.examples()).div_ceil(GROUP);
        groups = groups.saturating_add(elements.saturating_mul(plan.dp.views));
        if groups > MASK_GROUPS_LIMIT {
            return Err(refuse("more elements than a stream has words"));
        }
    }
    Ok(())
}
