//! Units that must not be mixed up, and how they are shown to people.

use core::fmt;

/// Bytes in one sector, the kernel's unit for block devices.
pub const SECTOR_BYTES: u64 = 512;

/// A length or position on a block device, in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

impl Sectors {
    /// The same length in bytes; saturates, since no device reaches 2^64 bytes.
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0.saturating_mul(SECTOR_BYTES))
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes. Its `Display` is for people: `12 B`, `3.4 MiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The largest number: more than any machine has.
    pub const MAX: Self = Self(u64::MAX);

    /// Whole sectors in this many bytes, rounded down.
    pub const fn sectors(self) -> Sectors {
        Sectors(self.0 / SECTOR_BYTES)
    }

    /// This many bytes as a share of `whole`, in percent, at most 100. A share of 0 is 100, so that
    /// what can hold nothing counts as full.
    pub const fn percent_of(self, whole: Bytes) -> u64 {
        if whole.0 == 0 {
            return 100;
        }
        let percent = (self.0 as u128 * 100) / whole.0 as u128;
        if percent > 100 { 100 } else { percent as u64 }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = "KiB";
        // Tenths of the unit, in integers: floating point would cost bytes on the target.
        let mut tenths = self.0 as u128 * 10 / 1024;
        for next in UNITS.iter().skip(1) {
            if tenths < 10240 {
                break;
            }
            tenths /= 1024;
            unit = next;
        }
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// The number by which the kernel knows a device, printed as `major:minor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNo {
    /// Driver's number.
    pub major: u32,
    /// Device's number within the driver.
    pub minor: u32,
}

impl DevNo {
    /// Reads `8:1`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: decimal(major)?, minor: decimal(minor)? })
    }

    /// Decodes the 64-bit encoding that device-mapper and stat use (glibc's and the kernel's
    /// "huge" `dev_t`: minor in bits 0–7 and 20–31, major in bits 8–19).
    pub const fn from_huge(dev: u64) -> Self {
        Self {
            major: ((dev >> 8) & 0xfff) as u32,
            minor: ((dev & 0xff) | ((dev >> 12) & 0xfff00)) as u32,
        }
    }
}

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Reads a plain decimal number; unlike `str::parse` it takes no sign.
pub fn decimal<T: core::str::FromStr>(text: &str) -> Option<T> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Reads `65536`, `16K`, `32M`, `1G`; not 0.
pub fn bytes(text: &str) -> Option<Bytes> {
    let (digits, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        _ => (text, 0),
    };
    let bytes = decimal::<u64>(digits)?.checked_mul(1 << shift)?;
    (bytes > 0).then_some(Bytes(bytes))
}

/// A point in time as `2026-11-23 06:40:12 UTC`, from seconds since 1970.
///
/// Days to civil date by counting from 1 March of year 0, so that the leap day comes last.
pub struct Utc(pub i64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let days = days.saturating_add(719_468);
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_shown_in_the_largest_fitting_unit() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(1024).to_string(), "1.0 KiB");
        assert_eq!(Bytes(8 << 20).to_string(), "8.0 MiB");
        assert_eq!(Bytes((8 << 20) + (7 << 17)).to_string(), "8.8 MiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "16383.9 PiB");
    }

    #[test]
    fn percent_never_divides_by_zero_or_passes_100() {
        assert_eq!(Bytes(5).percent_of(Bytes(0)), 100, "what holds nothing is full");
        assert_eq!(Bytes(0).percent_of(Bytes(0)), 100);
        assert_eq!(Bytes(5).percent_of(Bytes(10)), 50);
        assert_eq!(Bytes(50).percent_of(Bytes(10)), 100);
    }

    #[test]
    fn device_numbers_read_back() {
        assert_eq!(DevNo::parse("8:1"), Some(DevNo { major: 8, minor: 1 }));
        for bad in ["", "8", "8:", ":1", "8:1:2", "+8:1", "8: 1", "8:99999999999"] {
            assert_eq!(DevNo::parse(bad), None, "{bad:?}");
        }
        assert_eq!(DevNo::from_huge(0x0010_0801), DevNo { major: 8, minor: 0x101 });
    }

    #[test]
    fn known_dates() {
        assert_eq!(Utc(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(Utc(951_782_400).to_string(), "2000-02-29 00:00:00 UTC");
        assert_eq!(Utc(4_102_444_799).to_string(), "2099-12-31 23:59:59 UTC");
        assert_eq!(Utc(-1).to_string(), "1969-12-31 23:59:59 UTC");
    }

    proptest! {
        #[test]
        fn any_time_and_size_prints(time in any::<i64>(), size in any::<u64>()) {
            let _ = Utc(time).to_string();
            let _ = Bytes(size).to_string();
        }
    }

    #[test]
    fn each_unit_begins_at_its_first_byte() {
        for (exponent, unit) in [(10, "KiB"), (20, "MiB"), (30, "GiB"), (40, "TiB"), (50, "PiB")] {
            assert_eq!(Bytes(1 << exponent).to_string(), format!("1.0 {unit}"));
            assert_eq!(Bytes(3 << (exponent - 1)).to_string(), format!("1.5 {unit}"));
        }
        assert_eq!(Bytes((1 << 20) - 1).to_string(), "1023.9 KiB");
    }

    #[test]
    fn sizes_are_read_with_their_letters() {
        for (text, expected) in [
            ("1", 1),
            ("65536", 65_536),
            ("16k", 16 << 10),
            ("16K", 16 << 10),
            ("3m", 3 << 20),
            ("3M", 3 << 20),
            ("2g", 2 << 30),
            ("2G", 2 << 30),
            ("17179869183G", 17_179_869_183 << 30),
        ] {
            assert_eq!(bytes(text), Some(Bytes(expected)), "{text}");
        }
        for bad in ["", "0", "0K", "K", "1T", "1.5M", "-1", "+1", "17179869184G", "1 K", "1KK"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
        assert_eq!(
            (decimal::<u64>("007"), decimal::<u8>("256"), decimal::<u64>("+1")),
            (Some(7), None, None)
        );
        assert_eq!((Sectors(3).bytes(), Bytes(1535).sectors()), (Bytes(1536), Sectors(2)));
        assert_eq!(Sectors(u64::MAX).bytes(), Bytes::MAX);
    }

    #[test]
    fn device_numbers_are_decoded_as_the_kernel_encodes_them() {
        // new_encode_dev: (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)
        for (major, minor) in
            [(0, 0), (8, 1), (253, 255), (253, 256), (4095, 0xf_ffff), (1, 0x5_5555)]
        {
            let encoded = u64::from((minor & 0xff) | (major << 8) | ((minor & !0xff_u32) << 12));
            assert_eq!(DevNo::from_huge(encoded), DevNo { major, minor });
            let number = DevNo { major, minor };
            assert_eq!(DevNo::parse(&number.to_string()), Some(number));
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097_i64 {
            assert_eq!(
                Utc(days * 86_400).to_string(),
                format!("{year}-{month:02}-{day:02} 00:00:00 UTC")
            );
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, day) if day == last => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
        assert_eq!(Utc(86_399).to_string(), "1970-01-01 23:59:59 UTC");
        assert_eq!(Utc(7_200).to_string(), "1970-01-01 02:00:00 UTC");
        assert_eq!(Utc(3_661).to_string(), "1970-01-01 01:01:01 UTC");
    }
}
