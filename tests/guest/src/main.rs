//! Helpers for the tests inside the guest, in one binary.

mod classic;
mod day;
mod deny;
mod direct;
mod dm;
mod flood;
mod hog;
mod initmemory;
mod inject;
mod killat;
mod load;
mod memory;
mod model;
mod random;
mod trace;
mod writer;

use std::process::ExitCode;

use argh::FromArgs;

/// Helpers for cowflush's tests inside the guest.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    tool: Tool,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Tool {
    KillAt(killat::KillAt),
    Deny(deny::Deny),
    Inject(inject::Inject),
    Direct(direct::Direct),
    Writer(writer::Writer),
    Classic(classic::Classic),
    Memory(memory::Memory),
    Model(model::Model),
    InitMemory(initmemory::InitMemory),
    Load(load::Load),
    Flood(flood::Flood),
    Hog(hog::Hog),
    Day(day::Day),
    Dm(dm::Dm),
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Arguments = argh::from_env();
    let result = match arguments.tool {
        Tool::KillAt(tool) => tool.run(),
        Tool::Deny(tool) => tool.run(),
        Tool::Inject(tool) => tool.run(),
        Tool::Direct(tool) => tool.run(),
        Tool::Writer(tool) => tool.run(),
        Tool::Classic(tool) => tool.run(),
        Tool::Memory(tool) => tool.run(),
        Tool::Model(tool) => tool.run(),
        Tool::InitMemory(tool) => tool.run(),
        Tool::Load(tool) => tool.run(),
        Tool::Flood(tool) => tool.run(),
        Tool::Hog(tool) => tool.run(),
        Tool::Day(tool) => tool.run(),
        Tool::Dm(tool) => tool.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("guest-tools: {error}");
        ExitCode::FAILURE
    })
}
