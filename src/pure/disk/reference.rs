//! `root=` and the like: how a user names a block device.

use core::fmt;

use crate::pure::units::DevNo;

/// A name for a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `/dev/sda1`.
    Path(String),
    /// `8:1`, or the kernel's old hexadecimal `801`.
    Number(DevNo),
    /// `UUID=`: the filesystem's.
    Uuid(String),
    /// `LABEL=`: the filesystem's.
    Label(String),
    /// `PARTUUID=`: the partition's.
    PartUuid(String),
    /// `PARTLABEL=`: the partition's, GPT only.
    PartLabel(String),
}

impl Reference {
    /// Whether the reference names what is on a device, not the device.
    pub fn is_of_filesystem(&self) -> bool {
        matches!(self, Self::Uuid(_) | Self::Label(_))
    }

    /// Reads a reference; `None` when the text is not one. What is not a local block device
    /// (`/dev/nfs`, `ubi0:root`) is not one either.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((tag, value)) = text.split_once('=') {
            let value = value.trim_matches('"').to_owned();
            return match tag {
                _ if value.is_empty() => None,
                "UUID" => Some(Self::Uuid(value.to_ascii_lowercase())),
                "LABEL" => Some(Self::Label(value)),
                "PARTUUID" => Some(Self::PartUuid(value.to_ascii_lowercase())),
                "PARTLABEL" => Some(Self::PartLabel(value)),
                _ => None,
            };
        }
        // udev's links say the same, and a boot may have no udev.
        if let Some((folder, name)) =
            text.strip_prefix("/dev/disk/by-").and_then(|rest| rest.split_once('/'))
            && let Some(tag) = match folder {
                "uuid" => Some("UUID"),
                "label" => Some("LABEL"),
                "partuuid" => Some("PARTUUID"),
                "partlabel" => Some("PARTLABEL"),
                _ => None,
            }
        {
            return Self::parse(&format!("{tag}={}", unescaped(name)));
        }
        match text.strip_prefix("/dev/") {
            Some("" | "nfs" | "cifs" | "ram0") => None,
            Some(_) => Some(Self::Path(text.to_owned())),
            None => DevNo::parse(text).or_else(|| hexadecimal(text)).map(Self::Number),
        }
    }
}

/// A name as udev writes it into a link: it puts `\x20` for a blank (`encode_devnode_name` of
/// systemd's device-nodes.c). Text that is not such an escape stays as it is.
fn unescaped(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut rest = name.as_bytes();
    while let [first, others @ ..] = rest {
        let escaped = match rest {
            [b'\\', b'x', high, low, more @ ..] => {
                digit(*high).zip(digit(*low)).map(|(high, low)| ((high << 4 | low) as u8, more))
            }
            _ => None,
        };
        let (byte, more) = escaped.unwrap_or((*first, others));
        bytes.push(byte);
        rest = more;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The kernel's old form: `801` is 8:1. Its `dev_t` is 12 bits of major over 8 of minor here,
/// with more of the minor above (`new_decode_dev`).
fn hexadecimal(text: &str) -> Option<DevNo> {
    let digits = (3..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let value = digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()?;
    Some(DevNo::from_huge(u64::from(value)))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Number(number) => number.fmt(f),
            Self::Uuid(value) => write!(f, "UUID={value}"),
            Self::Label(value) => write!(f, "LABEL={value}"),
            Self::PartUuid(value) => write!(f, "PARTUUID={value}"),
            Self::PartLabel(value) => write!(f, "PARTLABEL={value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_is_read() {
        let number = |major, minor| Some(Reference::Number(DevNo { major, minor }));
        let cases = [
            ("/dev/sda1", Some(Reference::Path("/dev/sda1".to_owned()))),
            ("8:1", number(8, 1)),
            ("801", number(8, 1)),
            ("0301", number(3, 1)),
            ("UUID=AB-cd", Some(Reference::Uuid("ab-cd".to_owned()))),
            ("LABEL=Root", Some(Reference::Label("Root".to_owned()))),
            ("UUID=\"ab\"", Some(Reference::Uuid("ab".to_owned()))),
            ("PARTUUID=C0FFEE00-01", Some(Reference::PartUuid("c0ffee00-01".to_owned()))),
            ("PARTLABEL=root", Some(Reference::PartLabel("root".to_owned()))),
            ("/dev/disk/by-uuid/AB-cd", Some(Reference::Uuid("ab-cd".to_owned()))),
            ("/dev/disk/by-label/Root", Some(Reference::Label("Root".to_owned()))),
            (r"/dev/disk/by-label/My\x20root", Some(Reference::Label("My root".to_owned()))),
            (r"/dev/disk/by-label/a\x2", Some(Reference::Label(r"a\x2".to_owned()))),
            (
                "/dev/disk/by-partuuid/C0FFEE00-01",
                Some(Reference::PartUuid("c0ffee00-01".to_owned())),
            ),
            ("/dev/disk/by-partlabel/root", Some(Reference::PartLabel("root".to_owned()))),
            ("/dev/disk/by-id/ata-1", Some(Reference::Path("/dev/disk/by-id/ata-1".to_owned()))),
        ];
        for (text, expected) in cases {
            assert_eq!(Reference::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_local_device_is_refused() {
        for text in [
            "",
            "sda1",
            "/dev/",
            "/dev/nfs",
            "/dev/disk/by-uuid/",
            "UUID=",
            "ubi0:root",
            "FOO=bar",
            "8:",
            "xyz",
        ] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_and_prints(text in ".{0,60}") {
            if let Some(reference) = Reference::parse(&text) {
                let _ = reference.to_string();
            }
        }
    }

    #[test]
    fn a_reference_that_is_printed_reads_back() {
        for text in [
            "/dev/sda1",
            "8:1",
            "UUID=ab-cd",
            "LABEL=Root",
            "PARTUUID=c0ffee00-01",
            "PARTLABEL=My root",
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_old_hexadecimal_form_has_three_to_eight_digits() {
        let number = |major, minor| Some(Reference::Number(DevNo { major, minor }));
        assert_eq!(Reference::parse("fd03"), number(253, 3));
        assert_eq!(Reference::parse("FD03"), number(253, 3));
        assert_eq!(Reference::parse("00100801"), number(8, 0x101));
        for text in ["80", "000000801", "80g"] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
        for text in ["/dev/cifs", "/dev/ram0", "LABEL=\"\"", "LABEL="] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
    }
}
