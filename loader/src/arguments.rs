//! `myelin-loader --threads N [--image-fd FD] [--backend process|kvm|sgx] [--sigstruct-fd FD]`

use myelin_abi::SLOT_COUNT;

/// What is printed when the arguments are wrong.
pub const USAGE: &str = "usage: myelin-loader --threads N [--image-fd FD] [--backend process|kvm|sgx] [--sigstruct-fd FD]\n\
Runs the enclave image that is open on descriptor FD (3 unless said) in this process, which locks itself down first,\n\
in a virtual machine without a kernel, of this process, or in an SGX enclave, which SIGSTRUCT on another descriptor\n\
starts.\n\
Messages are frames on standard input and output; the first frame out is a report in JSON.";

/// What runs the image's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// This process's own threads.
    Process,
    /// Virtual processors of a machine that this process makes.
    Kvm,
    /// The processor, in an enclave.
    Sgx,
}

impl Backend {
    /// The name in arguments and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kvm => "kvm",
            Self::Sgx => "sgx",
        }
    }
}

/// The arguments, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Threads to lend, the one that carries messages included: 1 to 16.
    pub threads: usize,
    /// Descriptor of the image file: 3 or above.
    pub image_fd: i32,
    /// What runs the image.
    pub backend: Backend,
    /// Descriptor of the signed structure that starts an SGX enclave: 3 or above, for that backend alone.
    pub sigstruct_fd: Option<i32>,
}

/// A descriptor that is not one of the three that every process has.
fn descriptor(word: &str, value: &str) -> Result<i32, String> {
    match value.parse() {
        Ok(descriptor) if (3..i32::MAX).contains(&descriptor) => Ok(descriptor),
        _ => Err(format!("{word} is {value:?}, expected 3 or above")),
    }
}

impl Arguments {
    /// Reads the words behind the program's name.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut words = words;
        let (mut threads, mut image_fd, mut backend, mut sigstruct_fd) = (None, 3, Backend::Process, None);
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_default();
            match word.as_str() {
                "--threads" => match value.parse() {
                    Ok(count) if (1..=SLOT_COUNT).contains(&count) => threads = Some(count),
                    _ => return Err(format!("--threads is {value:?}, expected 1 to {SLOT_COUNT}")),
                },
                "--image-fd" => image_fd = descriptor(&word, &value)?,
                "--sigstruct-fd" => sigstruct_fd = Some(descriptor(&word, &value)?),
                "--backend" => match value.as_str() {
                    "process" => backend = Backend::Process,
                    "kvm" => backend = Backend::Kvm,
                    "sgx" => backend = Backend::Sgx,
                    _ => return Err(format!("--backend is {value:?}, expected process, kvm or sgx")),
                },
                _ => return Err(format!("{word:?} is not an argument")),
            }
        }
        let threads = threads.ok_or("--threads is missing")?;
        if (backend == Backend::Sgx) != sigstruct_fd.is_some() || sigstruct_fd == Some(image_fd) {
            return Err("--sigstruct-fd goes with --backend sgx, and is another than --image-fd".to_owned());
        }
        Ok(Self { threads, image_fd, backend, sigstruct_fd })
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Backend};

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_ascii_whitespace().map(String::from))
    }

    #[test]
    fn ranges_hold() {
        let expected =
            |threads, image_fd, backend, sigstruct_fd| Ok(Arguments { threads, image_fd, backend, sigstruct_fd });
        assert_eq!(parse("--threads 16"), expected(16, 3, Backend::Process, None));
        assert_eq!(parse("--image-fd 9 --threads 1"), expected(1, 9, Backend::Process, None));
        assert_eq!(parse("--threads 2 --backend kvm"), expected(2, 3, Backend::Kvm, None));
        assert_eq!(parse("--threads 2 --backend sgx --sigstruct-fd 7"), expected(2, 3, Backend::Sgx, Some(7)));
        for wrong in [
            "",
            "--threads",
            "--threads 0",
            "--threads 17",
            "--threads 1 --image-fd 2",
            "--threads 1 --image-fd x",
            "--threads 1 --backend",
            "--threads 1 --backend sgx",
            "--threads 1 --backend sgx --sigstruct-fd 3",
            "--threads 1 --backend sgx --sigstruct-fd 2",
            "--threads 1 --sigstruct-fd 4",
            "--threads 1 --backend tdx",
            "image",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
