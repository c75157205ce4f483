//! Disks by what is written on them: superblocks ([`superblock`]), partition tables ([`partition`])
//! and the names by which a kernel command line asks for one ([`reference`]).

pub mod partition;
pub mod reference;
pub mod superblock;

/// Two hexadecimal digits.
fn push_hex(text: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    }
}
