//! When to flush ([`schedule`]), how full a COW is ([`cow_limits`], [`memory`]), when to hold
//! writers back ([`pressure`]), and whether a root would be flushed at all ([`served`]). Other
//! rooms take the samples and act on the decisions.

pub mod cow_limits;
pub mod memory;
pub mod pressure;
pub mod schedule;
pub mod served;
