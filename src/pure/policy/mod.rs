//! When to flush ([`schedule`]), how much memory a COW may take ([`cow_memory`], of what
//! [`meminfo`] says) and how full it is ([`cow_limits`]), when to hold writers back ([`throttle`]),
//! and whether a root would be flushed at all ([`served`]). Other rooms take the samples and act on
//! the decisions.

pub mod cow_limits;
pub mod cow_memory;
pub mod meminfo;
pub mod schedule;
pub mod served;
pub mod throttle;
