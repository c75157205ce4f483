//! When to flush, and when to hold writers back. Pure: who looks and acts is [`crate::ops`].

pub mod pressure;
pub mod schedule;
