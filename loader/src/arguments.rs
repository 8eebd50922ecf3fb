//! `myelin-loader --threads N [--image-fd FD] [--backend process|kvm]`

use myelin_abi::SLOT_COUNT;

/// What is printed when the arguments are wrong.
pub const USAGE: &str = "usage: myelin-loader --threads N [--image-fd FD] [--backend process|kvm]\n\
Runs the enclave image that is open on descriptor FD (3 unless said) in this process, which locks itself down first,\n\
or in a virtual machine without a kernel, of this process.\n\
Messages are frames on standard input and output; the first frame out is a report in JSON.";

/// What runs the image's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// This process's own threads.
    Process,
    /// Virtual processors of a machine that this process makes.
    Kvm,
}

impl Backend {
    /// The name in arguments and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kvm => "kvm",
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
}

impl Arguments {
    /// Reads the words behind the program's name.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut words = words;
        let (mut threads, mut image_fd, mut backend) = (None, 3, Backend::Process);
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_default();
            match word.as_str() {
                "--threads" => match value.parse() {
                    Ok(count) if (1..=SLOT_COUNT).contains(&count) => threads = Some(count),
                    _ => return Err(format!("--threads is {value:?}, expected 1 to {SLOT_COUNT}")),
                },
                "--image-fd" => match value.parse() {
                    Ok(descriptor) if (3..i32::MAX).contains(&descriptor) => image_fd = descriptor,
                    _ => return Err(format!("--image-fd is {value:?}, expected 3 or above")),
                },
                "--backend" => match value.as_str() {
                    "process" => backend = Backend::Process,
                    "kvm" => backend = Backend::Kvm,
                    _ => return Err(format!("--backend is {value:?}, expected process or kvm")),
                },
                _ => return Err(format!("{word:?} is not an argument")),
            }
        }
        let threads = threads.ok_or("--threads is missing")?;
        Ok(Self { threads, image_fd, backend })
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
        let backend = Backend::Process;
        assert_eq!(parse("--threads 16"), Ok(Arguments { threads: 16, image_fd: 3, backend }));
        assert_eq!(parse("--image-fd 9 --threads 1"), Ok(Arguments { threads: 1, image_fd: 9, backend }));
        let backend = Backend::Kvm;
        assert_eq!(parse("--threads 2 --backend kvm"), Ok(Arguments { threads: 2, image_fd: 3, backend }));
        for wrong in [
            "",
            "--threads",
            "--threads 0",
            "--threads 17",
            "--threads 1 --image-fd 2",
            "--threads 1 --image-fd x",
            "--threads 1 --backend",
            "--threads 1 --backend sgx",
            "image",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
