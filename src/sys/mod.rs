//! The kernel layer: every ioctl and every `unsafe` of the crate. No decisions.

/// Lets a model of the kernel ([`kernel`]) answer instead of the code that follows, in a test that
/// has one. In the program this compiles to nothing.
macro_rules! ask {
    ($($call:tt)*) => {
        #[cfg(test)]
        if let Some(model) = crate::sys::kernel::model() {
            return model.$($call)*;
        }
    };
}
pub(crate) use ask;

pub mod block;
pub mod cgroups;
pub mod cow_threshold;
pub mod devices;
pub mod disk;
pub mod dm;
pub mod errand;
pub mod events;
pub mod file;
#[cfg(test)]
pub mod kernel;
pub mod lock;
pub mod loopdev;
pub mod memory;
pub mod mknod;
pub mod mlock;
pub mod node;
pub mod priority;
pub mod process;
pub mod program;
pub mod psi;
pub mod random;
pub mod signals;
pub mod swap;
pub mod syncing;
pub mod sysctl;
pub mod terminal;
pub mod time;
pub mod tmpfs;
pub mod users;
pub mod watch;
pub mod watchdog;
#[cfg(any(test, feature = "model"))]
pub mod world;
