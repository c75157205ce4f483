//! Disks by what is written on them: filesystems ([`filesystem`]), partition tables ([`partition`])
//! and the names by which a kernel command line asks for one ([`reference`]).

pub mod filesystem;
pub mod partition;
pub mod reference;

/// Two hexadecimal digits.
fn push_hex(text: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    }
}
