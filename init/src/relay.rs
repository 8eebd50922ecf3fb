//! Messages both ways, and evidence in between where the image wants some.

use std::convert::Infallible;
use std::io::{Read, Write};

use crate::cbor;
use crate::fault::Fault;
use crate::frame;
use crate::source::{REPORT_DATA_BYTES, Source};

const HOST: &str = "the channel to the host";
const LOADER: &str = "the loader";
/// Message `evidence` of the protocol.
const EVIDENCE: usize = 12;

/// Carries messages until one side ends. The loader's first frame is its own: a report.
pub fn carry(
    channel: &mut (impl Read + Write),
    answers: &mut impl Read,
    requests: &mut impl Write,
    source: &mut dyn Source,
) -> Result<Infallible, Fault> {
    let mut answer = || frame::receive(answers, LOADER)?.ok_or_else(|| Fault::new(LOADER, "has ended"));
    frame::send(channel, &answer()?, HOST)?;
    loop {
        if !frame::forward(channel, requests, HOST)? {
            return Err(Fault::new(HOST, "has ended"));
        }
        let mut reply = answer()?;
        if let Some(report_data) = wanted(&reply) {
            let evidence = source.evidence(report_data)?;
            frame::send(requests, &message(&evidence), LOADER)?;
            reply = answer()?;
            if wanted(&reply).is_some() {
                return Err(Fault::new("the image", "wants evidence again, after it was given"));
            }
        }
        frame::send(channel, &reply, HOST)?;
    }
}

/// The report data of an answer `[2, report data]`; the image writes it in this one form.
fn wanted(reply: &[u8]) -> Option<&[u8; REPORT_DATA_BYTES]> {
    reply.strip_prefix(&[0x82, 0x02, 0x58, 0x40])?.try_into().ok()
}

/// The message `[12, evidence]`.
fn message(evidence: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(evidence.len() + 16);
    cbor::head(&mut out, cbor::ARRAY, 2);
    cbor::head(&mut out, cbor::UINT, EVIDENCE);
    cbor::bytes(&mut out, evidence);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair<'a>(&'a [u8], Vec<u8>);

    impl Read for Pair<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Pair<'_> {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            self.1.write(buffer)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Echo(Vec<[u8; 64]>);

    impl Source for Echo {
        fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Vec<u8>, Fault> {
            self.0.push(*report_data);
            Ok(b"cmw".to_vec())
        }
    }

    fn frames(list: &[&[u8]]) -> Vec<u8> {
        list.iter().flat_map(|bytes| [&(bytes.len() as u32).to_le_bytes(), *bytes].concat()).collect()
    }

    fn asking(byte: u8) -> Vec<u8> {
        [&[0x82, 0x02, 0x58, 0x40][..], &[byte; 64]].concat()
    }

    /// What the host and the loader got, what was quoted, and how it ended.
    fn carried(host: &[&[u8]], loader: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Vec<[u8; 64]>, String) {
        let (host, loader) = (frames(host), frames(loader));
        let (mut channel, mut requests, mut source) = (Pair(&host, vec![]), Vec::new(), Echo(vec![]));
        let end = match carry(&mut channel, &mut loader.as_slice(), &mut requests, &mut source) {
            Ok(never) => match never {},
            Err(fault) => fault.to_string(),
        };
        (channel.1, requests, source.0, end)
    }

    #[test]
    fn evidence_is_made_for_what_the_image_says() {
        let (host, loader, quoted, end) = carried(&[b"attest", b"next"], &[b"report", &asking(7), b"done", b"other"]);
        assert_eq!(host, frames(&[b"report", b"done", b"other"]));
        assert_eq!(loader, frames(&[b"attest", b"\x82\x0c\x43cmw", b"next"]));
        assert_eq!(quoted, [[7; 64]]);
        assert_eq!(end, "the channel to the host: has ended");
    }

    #[test]
    fn nothing_of_the_host_is_quoted() {
        let (_, loader, quoted, _) = carried(&[&asking(9)], &[b"report", b"refused"]);
        assert_eq!(loader, frames(&[&asking(9)]));
        assert!(quoted.is_empty());
    }

    #[test]
    fn other_answers_are_not_requests_for_evidence() {
        let longer = [asking(7), vec![0]].concat();
        let shorter = asking(7).split_last().map(|(_, rest)| rest.to_vec()).unwrap_or_default();
        for reply in [&longer, &shorter, &b"\x82\x02\x40".to_vec()] {
            let (host, _, quoted, _) = carried(&[b"attest"], &[b"report", reply]);
            assert_eq!(host, frames(&[b"report", reply]));
            assert!(quoted.is_empty());
        }
    }

    #[test]
    fn asking_twice_ends_the_machine() {
        let (host, _, _, end) = carried(&[b"attest"], &[b"report", &asking(7), &asking(8)]);
        assert_eq!(host, frames(&[b"report"]));
        assert!(end.starts_with("the image: wants evidence again"));
    }

    #[test]
    fn a_loader_that_ends_ends_the_machine() {
        assert_eq!(carried(&[b"x"], &[b"report"]).3, "the loader: has ended");
        assert_eq!(carried(&[], &[]).3, "the loader: has ended");
    }
}
