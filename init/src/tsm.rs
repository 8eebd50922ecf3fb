//! Reports of confidential virtual machines, by the kernel's one interface for them
//! (Documentation/ABI/testing/configfs-tsm-report).

use std::fs::{File, create_dir, read_to_string, write};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::cbor;
use crate::fault::Fault;
use crate::source::{REPORT_DATA_BYTES, Source};

const REPORTS: &str = "/sys/kernel/config/tsm/report";
const WHAT: &str = "the kernel's report interface";
const OUTPUT_BYTES_LIMIT: u64 = 64 << 10;
/// A host may answer a request for a quote late or ask for it again.
const ATTEMPTS: usize = 5;

/// Providers of the kernel, and the media type of what each gives.
const PROVIDERS: [(&str, &str); 2] =
    [("tdx_guest", "application/vnd.myelin.tdx-quote"), ("sev_guest", "application/vnd.myelin.sev-snp-report")];

/// One report entry of the kernel's, this process's own.
#[derive(Debug)]
pub struct Tsm {
    entry: PathBuf,
    media_type: &'static str,
}

impl Tsm {
    /// Makes the entry; nothing where the kernel has no provider.
    pub fn open() -> Result<Option<Self>, Fault> {
        Self::open_in(Path::new(REPORTS))
    }

    fn open_in(reports: &Path) -> Result<Option<Self>, Fault> {
        let entry = reports.join("myelin");
        match create_dir(&entry) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => return Ok(None),
            Err(error) => return Err(Fault::new(WHAT, error)),
        }
        let name = read_to_string(entry.join("provider")).map_err(|error| Fault::new(WHAT, error))?;
        let known = PROVIDERS.iter().find(|(provider, _)| *provider == name.trim_ascii());
        match known {
            Some((_, media_type)) => Ok(Some(Self { entry, media_type })),
            None => Err(Fault::new(WHAT, "a provider that is neither tdx_guest nor sev_guest")),
        }
    }

    fn generation(&self) -> std::io::Result<u64> {
        read_to_string(self.entry.join("generation"))?.trim_ascii().parse().map_err(|_| ErrorKind::InvalidData.into())
    }

    /// One report, and whether no other request came between: the kernel counts what is written to an entry.
    fn report(&self, report_data: &[u8; REPORT_DATA_BYTES]) -> std::io::Result<Option<Vec<u8>>> {
        let before = self.generation()?;
        write(self.entry.join("inblob"), report_data)?;
        let mut report = Vec::new();
        File::open(self.entry.join("outblob"))?.take(OUTPUT_BYTES_LIMIT + 1).read_to_end(&mut report)?;
        let is_whole = !report.is_empty() && report.len() as u64 <= OUTPUT_BYTES_LIMIT;
        Ok((is_whole && self.generation()? == before + 1).then_some(report))
    }
}

impl Source for Tsm {
    fn evidence(&mut self, report_data: &[u8; REPORT_DATA_BYTES]) -> Result<Vec<u8>, Fault> {
        let mut last = Fault::new(WHAT, "gave no report of this request");
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(Duration::from_secs(1));
            }
            match self.report(report_data) {
                Ok(Some(report)) => return Ok(cbor::cmw(self.media_type, &report)),
                Ok(None) => {}
                Err(error) => last = Fault::new(WHAT, error),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("myelin-tsm-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        assert!(create_dir(&path).is_ok());
        path
    }

    /// An entry whose `outblob` answers each reader, as the kernel's does: a report of what lies in `inblob`, after as many
    /// steps of `generation` as the list says.
    fn kernel(entry: &Path, steps: &'static [u64]) -> std::thread::JoinHandle<()> {
        let entry = entry.to_path_buf();
        assert!(write(entry.join("generation"), "7\n").is_ok());
        assert!(mkfifo(&entry.join("outblob"), Mode::S_IRUSR | Mode::S_IWUSR).is_ok());
        std::thread::spawn(move || {
            let mut generation = 7;
            for step in steps {
                let Ok(mut out) = File::create(entry.join("outblob")) else { return };
                generation += step;
                let _ = write(entry.join("generation"), format!("{generation}\n"));
                let asked = std::fs::read(entry.join("inblob")).unwrap_or_default();
                let _ = std::io::Write::write_all(&mut out, &[b"report of ".as_slice(), &asked].concat());
                drop(out);
                // Until the reader has closed its end, too: the next to open it is the next request.
                std::thread::sleep(Duration::from_millis(200));
            }
        })
    }

    #[test]
    fn a_report_is_of_this_request() {
        let entry = folder("one");
        let thread = kernel(&entry, &[1]);
        let mut tsm = Tsm { entry: entry.clone(), media_type: "a/b" };
        let evidence = tsm.evidence(&[7; 64]).unwrap_or_default();
        assert_eq!(evidence, cbor::cmw("a/b", &[b"report of ".as_slice(), &[7; 64]].concat()));
        assert!(thread.join().is_ok());
        let _ = std::fs::remove_dir_all(entry);
    }

    #[test]
    fn a_report_with_another_request_between_is_asked_for_again() {
        let entry = folder("two");
        let thread = kernel(&entry, &[2, 0, 1]);
        let mut tsm = Tsm { entry: entry.clone(), media_type: "a/b" };
        assert!(tsm.evidence(&[7; 64]).is_ok());
        assert!(thread.join().is_ok(), "three requests, the last of them whole");
        let _ = std::fs::remove_dir_all(entry);
    }

    #[test]
    fn a_kernel_without_the_interface_has_no_source() {
        let reports = folder("none");
        assert!(matches!(Tsm::open_in(&reports.join("report")), Ok(None)));
        assert!(Tsm::open_in(&reports).is_err(), "an entry that names no provider");
        let _ = std::fs::remove_dir_all(reports);
    }
}
