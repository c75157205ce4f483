//! The model of the kernel's devices beside the kernel.

use std::process::ExitCode;

use argh::FromArgs;

use crate::Failure;

/// Put the same random requests to the model of the kernel's devices and to the kernel, sequences of the seeds FIRST to END
/// (without END); ends with 1 where any differ.
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
