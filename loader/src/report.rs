//! The first frame the loader sends: what it measured and how it locked itself down, as JSON.

use crate::arguments::Backend;
use crate::refusal::Refusal;

/// One layer of the lockdown.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Stable name.
    pub name: &'static str,
    /// Whether it holds.
    pub applied: bool,
    /// What exactly holds, or why it does not.
    pub detail: String,
}

impl Layer {
    /// A layer that holds.
    pub fn applied(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, applied: true, detail: detail.into() }
    }

    /// A layer that does not hold, and why.
    pub fn missing(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, applied: false, detail: detail.into() }
    }

    /// A layer whose outcome is `result`.
    pub fn of<E: std::fmt::Display>(name: &'static str, detail: &str, result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::applied(name, detail),
            Err(error) => Self::missing(name, error.to_string()),
        }
    }
}

/// What is said of an image that runs.
#[derive(Clone, Debug)]
pub struct Report {
    /// SHA-256 of the image file.
    pub measurement: [u8; 32],
    /// Layers in the order they were applied.
    pub layers: Vec<Layer>,
    /// Bytes of memory that the image's segments take.
    pub memory_bytes: u64,
    /// Threads lent, the one that carries messages included.
    pub threads: usize,
    /// What runs the image.
    pub backend: Backend,
    /// What the image was built for.
    pub target: String,
    /// The version that the image answered to its launch.
    pub abi: u64,
}

/// A JSON string literal (RFC 8259), ASCII only.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (byte.is_ascii_graphic() || byte == b' ') && byte != b'"' && byte != b'\\' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
    out.push('"');
    out
}

impl Report {
    /// The report as JSON.
    pub fn json(&self) -> String {
        let measurement: String = self.measurement.iter().map(|byte| format!("{byte:02x}")).collect();
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|layer| {
                format!("{}:{{\"applied\":{},\"detail\":{}}}", quoted(layer.name), layer.applied, quoted(&layer.detail))
            })
            .collect();
        format!(
            "{{\"measurement\":\"{measurement}\",\"backend\":\"{}\",\"abi\":{},\"target\":{},\"threads\":{},\"memory\":{},\"lockdown\":{{{}}}}}",
            self.backend.name(),
            self.abi,
            quoted(&self.target),
            self.threads,
            self.memory_bytes,
            layers.join(",")
        )
    }
}

/// A refusal as JSON.
pub fn refusal_json(refusal: &Refusal) -> String {
    format!("{{\"error\":{{\"name\":{},\"message\":{}}}}}", quoted(refusal.reason.name()), quoted(&refusal.message))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quoted("a\"b\\c\n\u{e9}\u{1f600}"), r#""a\u0022b\u005cc\u000a\u00e9\ud83d\ude00""#);
    }
}
