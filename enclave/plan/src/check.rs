//! What a plan must fulfil to be run.

use alloc::vec;
use alloc::vec::Vec;

use crate::lifetimes::check_lifetimes;
use crate::masks::{check_masks, masks};
use crate::mechanism::check_dp;
use crate::views::check_views;
use crate::{
    ARENA_BYTES_LIMIT, ARGUMENTS_LIMIT, Call, Data, Label, Layout, Plan, PlanError, Roles, Tensor,
    TensorType,
};

pub(crate) type Result<T> = core::result::Result<T, PlanError>;

pub(crate) fn check(plan: &Plan, params_bytes: usize, kernels: usize) -> Result<()> {
    check_layout(&plan.layout)?;
    for (index, tensor) in plan.tensors.iter().enumerate() {
        if !tensor.offset.is_multiple_of(64) {
            return Err(PlanError::at(
                "tensors",
                index,
                "its offset is not a multiple of 64",
            ));
        }
        let layout = &plan.layout;
        let end = if layout.is_shared(tensor) {
            layout.shared_bytes
        } else {
            layout.shared_bytes + layout.lane_bytes
        };
        if tensor.end() > end {
            return Err(PlanError::at(
                "tensors",
                index,
                "not inside the shared part or a lane",
            ));
        }
    }
    check_dp(&plan.dp)?;
    require(
        plan.layout.lanes <= plan.physical_batches(),
        "lanes",
        "more than a logical step has batches",
    )?;
    check_data(&plan.data)?;
    require(
        !plan.data.oblivious || plan.dp.correlation.is_empty(),
        "oblivious",
        "records take turns, and whose turn it is may show",
    )?;
    check_calls("prepare", &plan.prepare, plan, kernels)?;
    check_calls("step", &plan.step, plan, kernels)?;
    check_calls("update", &plan.update, plan, kernels)?;
    check_views(plan)?;
    check_roles(plan)?;
    check_masks(plan)?;
    check_params(plan, params_bytes)?;
    check_model_header(&plan.model_header)?;
    check_parts(plan)?;
    check_lasting(plan)?;
    check_results(plan)?;
    check_released(plan)?;
    check_lifetimes(plan)
}

pub(crate) fn require(holds: bool, field: &'static str, reason: &'static str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(PlanError::new(field, reason))
    }
}

fn check_layout(layout: &Layout) -> Result<()> {
    require(layout.lanes > 0, "lanes", "zero")?;
    require(
        layout.shared_bytes.is_multiple_of(64),
        "shared_bytes",
        "not a multiple of 64",
    )?;
    require(
        layout.lane_bytes.is_multiple_of(64),
        "lane_bytes",
        "not a multiple of 64",
    )?;
    let bytes = layout
        .lane_bytes
        .checked_mul(layout.lanes)
        .and_then(|bytes| bytes.checked_add(layout.shared_bytes));
    require(
        bytes.is_some_and(|bytes| bytes as u64 <= ARENA_BYTES_LIMIT),
        "lane_bytes",
        "all lanes are larger than an arena may be",
    )
}

/// Lanes run at once: what one writes must be its own. What lasts from batch to batch is shared, and only read in a lane.
fn check_parts(plan: &Plan) -> Result<()> {
    let part = |field, index, shared, reason| {
        if plan.layout.is_shared(get(plan, field, index)?) == shared {
            Ok(())
        } else {
            Err(PlanError::at(field, index, reason))
        }
    };
    let roles = &plan.roles;
    let own = [roles.features, roles.labels, roles.mask]
        .into_iter()
        .chain(masks(plan))
        .chain(roles.contributing)
        .chain(roles.norms)
        .chain(roles.parameters.iter().map(|role| role.clipped_sum))
        .chain(
            plan.step
                .iter()
                .flat_map(|call| call.outputs.iter().copied()),
        );
    for index in own {
        part(
            "tensors",
            index,
            false,
            "a batch writes it, and it is shared",
        )?;
    }
    let lasting = roles
        .parameters
        .iter()
        .flat_map(|role| [role.value, role.noisy_gradient])
        .chain(roles.zeroed.iter().copied())
        .chain(plan.frozen())
        .chain(roles.step_number);
    let prepared = plan
        .prepare
        .iter()
        .flat_map(|call| call.inputs.iter().chain(&call.outputs).copied());
    for index in lasting.chain(prepared) {
        part(
            "tensors",
            index,
            true,
            "all batches use it, and it is in a lane",
        )?;
    }
    Ok(())
}

fn check_data(data: &Data) -> Result<()> {
    require(
        matches!(data.feature_type, TensorType::Float32 | TensorType::Uint8),
        "feature_dtype",
        "neither float32 nor uint8",
    )?;
    require(data.features > 0, "features", "zero")?;
    match data.label {
        Label::Class(classes) => require(classes > 0, "classes", "zero")?,
        Label::Number { lower, upper, .. } => require(lower < upper, "target", "an empty range")?,
    }
    require(data.max_records > 0, "max_records", "zero")?;
    require(
        data.record_bytes == data.features * data.feature_type.bytes() + 4,
        "record_bytes",
        "not features and a label of four bytes",
    )?;
    require(
        data.max_records.checked_mul(data.record_bytes).is_some(),
        "max_records",
        "does not fit the address space",
    )?;
    let lists = [
        ("lower", &data.lower),
        ("upper", &data.upper),
        ("scale", &data.scale),
        ("offset", &data.offset),
    ];
    for (field, list) in lists {
        require(
            list.len() == 1 || list.len() == data.features,
            field,
            "neither one number nor one per feature",
        )?;
    }
    require(
        data.lower.len() == data.upper.len() && data.scale.len() == data.offset.len(),
        "data",
        "lower and upper, or scale and offset, are not equally many",
    )?;
    let ordered = data.lower.iter().zip(&data.upper).all(|(l, u)| l <= u);
    require(ordered, "upper", "below lower")
}

pub(crate) fn get<'a>(plan: &'a Plan, field: &'static str, index: usize) -> Result<&'a Tensor> {
    plan.tensors
        .get(index)
        .ok_or(PlanError::at(field, index, "no such tensor"))
}

fn check_calls(field: &'static str, calls: &[Call], plan: &Plan, kernels: usize) -> Result<()> {
    for (index, call) in calls.iter().enumerate() {
        let refuse = |reason| PlanError::at(field, index, reason);
        if call.kernel >= kernels {
            return Err(refuse("no such kernel"));
        }
        if call.inputs.len() + call.outputs.len() > ARGUMENTS_LIMIT {
            return Err(refuse("too many arguments"));
        }
        if call.outputs.is_empty() {
            return Err(refuse("writes nothing"));
        }
        for (position, &output) in call.outputs.iter().enumerate() {
            let tensor = get(plan, field, output)?;
            for &input in &call.inputs {
                let read = get(plan, field, input)?;
                if read.overlaps(tensor) && !read.same_bytes(tensor) {
                    return Err(refuse("an output overlaps part of an input"));
                }
            }
            for &other in call.outputs.iter().skip(position + 1) {
                if get(plan, field, other)?.overlaps(tensor) {
                    return Err(refuse("two outputs overlap"));
                }
            }
        }
    }
    Ok(())
}

fn check_roles(plan: &Plan) -> Result<()> {
    let Roles {
        features,
        labels,
        mask,
        masks: _,
        contributing,
        norms,
        step_number,
        parameters,
        zeroed,
    } = &plan.roles;
    let m = plan.dp.microbatch;
    let rows = plan.examples();
    let batch = get(plan, "features", *features)?;
    require(
        batch.dtype == TensorType::Float32
            && batch.shape.first() == Some(&(rows as i64))
            && rows.checked_mul(plan.data.features) == Some(batch.count),
        "features",
        "not float32 [microbatch × views, …] with the schema's features",
    )?;
    let vector = |field, index, dtype, length: usize| {
        let tensor = get(plan, field, index)?;
        require(
            tensor.dtype == dtype && tensor.shape == [length as i64],
            field,
            "not of its type and shape",
        )
    };
    vector("labels", *labels, plan.data.label.dtype(), rows)?;
    vector("mask", *mask, TensorType::Float32, m)?;
    if let Some(index) = *contributing {
        vector("contributing", index, TensorType::Int32, m)?;
    }
    if let Some(index) = *norms {
        vector("norms", index, TensorType::Float32, m)?;
    }
    if let Some(index) = *step_number {
        vector("step_number", index, TensorType::Int32, 1)?;
    }
    for (position, role) in parameters.iter().enumerate() {
        let value = get(plan, "parameters", role.value)?;
        let others = [
            get(plan, "parameters", role.clipped_sum)?,
            get(plan, "parameters", role.noisy_gradient)?,
        ];
        if value.dtype != TensorType::Float32
            || others
                .iter()
                .any(|t| t.dtype != TensorType::Float32 || t.shape != value.shape)
        {
            return Err(PlanError::at(
                "parameters",
                position,
                "value, sum and gradient are not float32 of one shape",
            ));
        }
    }
    for &index in zeroed {
        get(plan, "zeroed", index)?;
    }
    Ok(())
}

fn check_params(plan: &Plan, params_bytes: usize) -> Result<()> {
    for (position, initial) in plan.params.iter().enumerate() {
        let tensor = get(plan, "params", initial.tensor)?;
        let inside = initial
            .offset
            .checked_add(tensor.bytes())
            .is_some_and(|end| end <= params_bytes);
        if !inside {
            return Err(PlanError::at(
                "params",
                position,
                "not inside .myelin.params",
            ));
        }
        let once = plan
            .params
            .iter()
            .filter(|other| other.tensor == initial.tensor);
        if once.count() != 1 || tensor.dtype != TensorType::Float32 {
            return Err(PlanError::at(
                "params",
                position,
                "not the one float32 value of its tensor",
            ));
        }
    }
    require(
        plan.params.len() == plan.roles.parameters.len() + plan.frozen().count(),
        "params",
        "a parameter has no initial value",
    )
}

fn check_model_header(header: &[u8]) -> Result<()> {
    let whole = header
        .split_first_chunk::<8>()
        .is_some_and(|(length, json)| {
            u64::from_le_bytes(*length) == json.len() as u64 && json.first() == Some(&b'{')
        });
    require(whole, "model_header", "not a length and as much JSON")
}

/// Tensors that nothing else may overlap, ever: parameters, constants, optimizer state, and what the runtime writes for kernels to read.
pub(crate) fn lasting(plan: &Plan) -> Vec<usize> {
    let roles = &plan.roles;
    let mut all = vec![roles.features, roles.labels, roles.mask];
    all.extend(masks(plan));
    all.extend(roles.step_number);
    all.extend(roles.parameters.iter().map(|role| role.value));
    all.extend(&roles.zeroed);
    all.extend(plan.frozen());
    all
}

fn check_lasting(plan: &Plan) -> Result<()> {
    let lasting = lasting(plan);
    for (position, &index) in lasting.iter().enumerate() {
        let tensor = get(plan, "roles", index)?;
        for &other in lasting.iter().skip(position + 1) {
            if get(plan, "roles", other)?.overlaps(tensor) {
                return Err(PlanError::at(
                    "tensors",
                    index,
                    "two lasting tensors overlap",
                ));
            }
        }
        // Another entry for the same bytes is the same tensor under another shape.
        let clash = plan
            .tensors
            .iter()
            .any(|other| other.overlaps(tensor) && !other.same_bytes(tensor));
        if clash {
            return Err(PlanError::at(
                "tensors",
                index,
                "a lasting tensor is overlapped",
            ));
        }
    }
    Ok(())
}

/// What is released has to come from the kernels, once: a clipped sum that two parameters share would be released twice,
/// which the sensitivity does not cover, and one that is an input would be raw records.
fn check_results(plan: &Plan) -> Result<()> {
    let roles = &plan.roles;
    let sums = || roles.parameters.iter().map(|role| role.clipped_sum);
    let gradients = || roles.parameters.iter().map(|role| role.noisy_gradient);
    let lasting = lasting(plan);
    for index in sums().chain(gradients()).chain(roles.contributing) {
        let tensor = get(plan, "roles", index)?;
        for &kept in &lasting {
            if get(plan, "roles", kept)?.overlaps(tensor) {
                return Err(PlanError::at(
                    "tensors",
                    index,
                    "a result overlaps a lasting tensor",
                ));
            }
        }
    }
    for results in [sums().collect::<Vec<_>>(), gradients().collect()] {
        for (position, &index) in results.iter().enumerate() {
            let tensor = get(plan, "parameters", index)?;
            for &other in results.iter().skip(position + 1) {
                if get(plan, "parameters", other)?.overlaps(tensor) {
                    return Err(PlanError::at(
                        "parameters",
                        position,
                        "two share a sum or a gradient",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What is given out of a parameter is its value or state of the update's, which reads nothing of a batch but noisy
/// gradients: of neither can anything be told that the noise does not cover.
fn check_released(plan: &Plan) -> Result<()> {
    let parameters = &plan.roles.parameters;
    for (position, role) in parameters.iter().enumerate() {
        let refuse = |reason| PlanError::at("released", position, reason);
        if role.released != role.value && !plan.roles.zeroed.contains(&role.released) {
            return Err(refuse("neither the parameter's value nor state"));
        }
        let (value, released) = (
            get(plan, "released", role.value)?,
            get(plan, "released", role.released)?,
        );
        if released.dtype != value.dtype || released.shape != value.shape {
            return Err(refuse("not of its parameter's type and shape"));
        }
        let mut others = parameters.iter().skip(position + 1);
        if others.any(|other| other.released == role.released) {
            return Err(refuse("two parameters release one tensor"));
        }
    }
    Ok(())
}
