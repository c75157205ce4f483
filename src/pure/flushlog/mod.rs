//! The flush log: a partition of the card to which each flush appends what changed, in order.
//!
//! Pure: the records byte by byte ([`records`]), where they stand ([`ring`]), which of them count
//! ([`chain`]), whether they are what root reads ([`agree`]), how a new one is laid out
//! ([`segment_layout`]), and whether they still fit the card ([`fingerprint`]), and how many boots have
//! begun over one that ends as it does ([`boot_count`]). [`crate::flush::flushlog`] reads and writes the
//! partition.

pub mod agree;
pub mod boot_count;
pub mod chain;
pub mod fingerprint;
pub mod ownership;
pub mod records;
pub mod ring;
pub mod segment;
pub mod segment_layout;
