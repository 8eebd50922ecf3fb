//! From CBOR to types. Lengths are limited before anything is allocated; what the numbers mean is checked afterwards.

use alloc::string::String;
use alloc::vec::Vec;

use crate::limits::*;
use crate::reader::Reader;
use crate::{
    Call, Data, Dp, Initial, Label, Layout, MaskRole, ParameterRole, Plan, PlanError, Roles, Rule,
    Tensor, TensorType,
};

type Result<T> = core::result::Result<T, PlanError>;

/// A plan and how many kernels it says there are.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Plan, u64)> {
    if bytes.len() > PLAN_BYTES_LIMIT {
        return Err(PlanError::new("plan", "longer than its limit"));
    }
    let mut r = Reader::new(bytes);
    r.map("plan", 14)?;
    r.key("dp")?;
    let dp = dp(&mut r)?;
    r.key("data")?;
    let data = data(&mut r)?;
    r.key("step")?;
    let step = calls(&mut r, "step")?;
    r.key("lanes")?;
    let lanes = r.size("lanes", LANES_LIMIT)?;
    r.key("roles")?;
    let roles = roles(&mut r)?;
    r.key("params")?;
    let params = params(&mut r)?;
    r.key("update")?;
    let update = calls(&mut r, "update")?;
    r.key("kernels")?;
    let kernels = r.uint("kernels", u64::from(u32::MAX))?;
    r.key("prepare")?;
    let prepare = calls(&mut r, "prepare")?;
    r.key("tensors")?;
    let tensors = tensors(&mut r)?;
    r.key("version")?;
    if r.uint("version", u64::MAX)? != 6 {
        return Err(PlanError::new("version", "not 6"));
    }
    r.key("lane_bytes")?;
    let lane_bytes = r.size("lane_bytes", ARENA_BYTES_LIMIT as usize)?;
    r.key("model_header")?;
    let model_header = r.bytes("model_header", MODEL_HEADER_BYTES_LIMIT)?.to_vec();
    r.key("shared_bytes")?;
    let shared_bytes = r.size("shared_bytes", ARENA_BYTES_LIMIT as usize)?;
    r.finish()?;
    let plan = Plan {
        layout: Layout {
            shared_bytes,
            lane_bytes,
            lanes,
        },
        tensors,
        prepare,
        step,
        update,
        roles,
        params,
        data,
        dp,
        model_header,
    };
    Ok((plan, kernels))
}

fn dp(r: &mut Reader<'_>) -> Result<Dp> {
    r.map("dp", 13)?;
    r.key("grid")?;
    let grid = r.float("grid")?;
    r.key("steps")?;
    let steps = r.uint("steps", i32::MAX as u64)? as u32;
    r.key("views")?;
    let views = r.size("views", VIEWS_LIMIT)?;
    r.key("augment")?;
    let count = r.array("augment", 0, AUGMENTATIONS_LIMIT)?;
    let augment = (0..count).map(|_| rule(r, "augment", 1));
    let augment = augment.collect::<Result<_>>()?;
    r.key("capacity")?;
    let capacity = r.size("capacity", RECORDS_LIMIT as usize)?;
    r.key("clipping")?;
    let clipping = rule(r, "clipping", CLIPPING_NUMBERS_LIMIT)?;
    r.key("microbatch")?;
    let microbatch = r.size("microbatch", RECORDS_LIMIT as usize)?;
    r.key("correlation")?;
    let bands = r.array("correlation", 0, BANDS_LIMIT)?;
    let correlation = (0..bands).map(|_| r.uint("correlation", i64::MAX as u64));
    let correlation = correlation.collect::<Result<_>>()?;
    r.key("sensitivity_e9")?;
    let sensitivity_e9 = r.uint("sensitivity_e9", u64::MAX)?;
    r.key("clipping_norm_e9")?;
    let clipping_norm_e9 = r.uint("clipping_norm_e9", u64::MAX)?;
    r.key("sampling_threshold")?;
    let sampling_threshold = r.uint("sampling_threshold", u64::MAX)?;
    r.key("expected_batch_size")?;
    let expected_batch_size = r.uint("expected_batch_size", RECORDS_LIMIT)?;
    r.key("noise_multiplier_e9")?;
    let noise_multiplier_e9 = r.uint("noise_multiplier_e9", u64::MAX)?;
    Ok(Dp {
        sampling_threshold,
        capacity,
        microbatch,
        steps,
        noise_multiplier_e9,
        correlation,
        augment,
        views,
        clipping,
        clipping_norm_e9,
        sensitivity_e9,
        expected_batch_size,
        grid,
    })
}

/// An array of a rule's name and its numbers.
fn rule(r: &mut Reader<'_>, field: &'static str, most: usize) -> Result<Rule> {
    let count = r.array(field, 1, 1 + most)?;
    let name = String::from(r.text(field, NAME_BYTES_LIMIT)?);
    let numbers = (1..count).map(|_| r.uint(field, i64::MAX as u64));
    Ok(Rule {
        name,
        numbers: numbers.collect::<Result<_>>()?,
    })
}

fn data(r: &mut Reader<'_>) -> Result<Data> {
    r.map("data", 11)?;
    r.key("lower")?;
    let lower = floats(r, "lower")?;
    r.key("scale")?;
    let scale = floats(r, "scale")?;
    r.key("upper")?;
    let upper = floats(r, "upper")?;
    r.key("offset")?;
    let offset = floats(r, "offset")?;
    let label = label(r)?;
    r.key("features")?;
    let features = r.size("features", FEATURES_LIMIT as usize)?;
    r.key("oblivious")?;
    let oblivious = r.uint("oblivious", 1)? == 1;
    r.key("max_records")?;
    let max_records = r.size("max_records", RECORDS_LIMIT as usize)?;
    r.key("record_bytes")?;
    let record_bytes = r.size("record_bytes", usize::MAX)?;
    r.key("feature_dtype")?;
    let feature_type = dtype(r, "feature_dtype")?;
    Ok(Data {
        feature_type,
        features,
        label,
        oblivious,
        max_records,
        record_bytes,
        lower,
        upper,
        scale,
        offset,
    })
}

/// `target`, the range of a number and what the loss sees of it, and `classes`, how many there are: zero and nil for a number.
fn label(r: &mut Reader<'_>) -> Result<Label> {
    r.key("target")?;
    let number = if r.nil() {
        None
    } else {
        r.array("target", 4, 4)?;
        Some(Label::Number {
            lower: r.float("target")?,
            upper: r.float("target")?,
            scale: r.float("target")?,
            offset: r.float("target")?,
        })
    };
    r.key("classes")?;
    let classes = r.uint("classes", i32::MAX as u64)? as u32;
    match number {
        None => Ok(Label::Class(classes)),
        Some(number) if classes == 0 => Ok(number),
        Some(_) => Err(PlanError::new("classes", "a number has none")),
    }
}

fn floats(r: &mut Reader<'_>, field: &'static str) -> Result<Vec<f64>> {
    let count = r.array(field, 1, FEATURES_LIMIT as usize)?;
    // A float64 takes nine bytes, so the plan's own size bounds what `collect` allocates.
    (0..count).map(|_| r.float(field)).collect()
}

fn dtype(r: &mut Reader<'_>, field: &'static str) -> Result<TensorType> {
    Ok(match r.uint(field, 4)? {
        0 => TensorType::Float32,
        1 => TensorType::Int32,
        2 => TensorType::Uint8,
        3 => TensorType::Int64,
        _ => TensorType::Bool,
    })
}

fn indices(r: &mut Reader<'_>, field: &'static str, most: usize) -> Result<Vec<usize>> {
    let count = r.array(field, 0, most)?;
    (0..count).map(|_| r.size(field, TENSORS_LIMIT)).collect()
}

fn calls(r: &mut Reader<'_>, field: &'static str) -> Result<Vec<Call>> {
    let count = r.array(field, 0, CALLS_LIMIT)?;
    (0..count)
        .map(|_| {
            r.array(field, 3, 3)?;
            Ok(Call {
                kernel: r.size(field, u32::MAX as usize)?,
                inputs: indices(r, field, ARGUMENTS_LIMIT)?,
                outputs: indices(r, field, ARGUMENTS_LIMIT)?,
            })
        })
        .collect()
}

fn index(r: &mut Reader<'_>, field: &'static str) -> Result<usize> {
    r.key(field)?;
    r.size(field, TENSORS_LIMIT)
}

fn index_or_nil(r: &mut Reader<'_>, field: &'static str) -> Result<Option<usize>> {
    r.key(field)?;
    if r.nil() {
        return Ok(None);
    }
    r.size(field, TENSORS_LIMIT).map(Some)
}

fn roles(r: &mut Reader<'_>) -> Result<Roles> {
    r.map("roles", 9)?;
    let mask = index(r, "mask")?;
    let masks = masks(r)?;
    let norms = index_or_nil(r, "norms")?;
    let labels = index(r, "labels")?;
    r.key("zeroed")?;
    let zeroed = indices(r, "zeroed", TENSORS_LIMIT)?;
    let features = index(r, "features")?;
    r.key("parameters")?;
    let count = r.array("parameters", 1, PARAMETERS_LIMIT)?;
    let parameters = (0..count).map(|_| parameter(r)).collect::<Result<_>>()?;
    let step_number = index_or_nil(r, "step_number")?;
    let contributing = index_or_nil(r, "contributing")?;
    Ok(Roles {
        features,
        labels,
        mask,
        masks,
        contributing,
        norms,
        step_number,
        parameters,
        zeroed,
    })
}

/// Tensor, threshold and scale of each dropout layer.
fn masks(r: &mut Reader<'_>) -> Result<Vec<MaskRole>> {
    r.key("masks")?;
    let count = r.array("masks", 0, MASKS_LIMIT)?;
    (0..count)
        .map(|position| {
            r.array("masks", 3, 3)?;
            let tensor = r.size("masks", TENSORS_LIMIT)?;
            let threshold = r.uint("masks", u32::MAX.into())? as u32;
            let scale = r.float("masks")?;
            if f64::from(scale as f32) != scale {
                return Err(PlanError::at("masks", position, "its scale is no float32"));
            }
            Ok(MaskRole {
                tensor,
                threshold,
                scale: scale as f32,
            })
        })
        .collect()
}

fn parameter(r: &mut Reader<'_>) -> Result<ParameterRole> {
    r.map("parameters", 5)?;
    r.key("name")?;
    let name = String::from(r.text("name", NAME_BYTES_LIMIT)?);
    Ok(ParameterRole {
        name,
        value: index(r, "value")?,
        released: index(r, "released")?,
        clipped_sum: index(r, "clipped_sum")?,
        noisy_gradient: index(r, "noisy_gradient")?,
    })
}

fn params(r: &mut Reader<'_>) -> Result<Vec<Initial>> {
    let count = r.array("params", 0, TENSORS_LIMIT)?;
    (0..count)
        .map(|_| {
            r.array("params", 2, 2)?;
            Ok(Initial {
                tensor: r.size("params", TENSORS_LIMIT)?,
                offset: r.size("params", ARENA_BYTES_LIMIT as usize)?,
            })
        })
        .collect()
}

fn tensors(r: &mut Reader<'_>) -> Result<Vec<Tensor>> {
    let count = r.array("tensors", 1, TENSORS_LIMIT)?;
    (0..count).map(|index| tensor(r, index)).collect()
}

fn tensor(r: &mut Reader<'_>, index: usize) -> Result<Tensor> {
    r.array("tensors", 3, 3)?;
    let offset = r.size("tensors", ARENA_BYTES_LIMIT as usize)?;
    let dtype = dtype(r, "tensors")?;
    let rank = r.array("tensors", 0, RANK_LIMIT)?;
    let mut shape = Vec::with_capacity(rank);
    let mut bytes = dtype.bytes();
    for _ in 0..rank {
        let size = r.size("tensors", ARENA_BYTES_LIMIT as usize)?;
        if size == 0 {
            return Err(PlanError::at("tensors", index, "a dimension is zero"));
        }
        bytes = bytes
            .checked_mul(size)
            .filter(|&bytes| bytes as u64 <= ARENA_BYTES_LIMIT)
            .ok_or(PlanError::at(
                "tensors",
                index,
                "larger than an arena may be",
            ))?;
        shape.push(size as i64);
    }
    Ok(Tensor {
        offset,
        dtype,
        shape,
        count: bytes / dtype.bytes(),
    })
}
