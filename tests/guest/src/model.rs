//! Compares the model of the kernel's devices with the kernel.

use std::process::ExitCode;

use argh::FromArgs;

use crate::Failure;

/// Send the same random requests to the model of the kernel's devices and to the kernel, in
/// sequences of the seeds FIRST to END (exclusive); ends with 1 if any result differs.
#[derive(FromArgs)]
#[argh(subcommand, name = "model")]
pub struct Model {
    #[argh(positional)]
    first: u64,
    #[argh(positional)]
    end: u64,
}

impl Model {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let differ = cowflush::sys::world::compare::run(self.first..self.end)
            .map_err(|error| error.to_string())?;
        Ok(if differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
