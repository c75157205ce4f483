//! Holds writers back while a flush makes room ([`valve`]), by another process ([`attendant`]); and the process that
//! wakes root up when the flusher is killed in the wrong moment ([`guard`]).

pub mod attendant;
pub mod guard;
pub mod valve;
