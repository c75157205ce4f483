//! Where messages go: the kernel log ([`kmsg`]), the system's log ([`syslog`]), the console ([`console`]), and a line of
//! progress on a terminal ([`progress`]).

pub mod console;
pub mod kmsg;
pub mod progress;
pub mod syslog;
