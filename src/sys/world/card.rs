//! A card: a volatile write cache, FLUSH and FUA, what refuses, and what a power cut leaves.

use std::ops::Range;

use nix::errno::Errno;

use super::image::{Image, SECTOR, byte};

/// Chances are drawn here: a number below the argument, which is not 0.
pub type Dice<'a> = &'a mut dyn FnMut(u64) -> u64;

/// Sectors that the card refuses.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Which ones.
    pub sectors: Range<u64>,
    /// To write them; otherwise to read them.
    pub writes: bool,
    /// How many requests more; `None`: for ever. A sector that is rewritten can be read again.
    pub left: Option<u32>,
}

/// What a power cut does to what the card had not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// So many of the writes since the last FLUSH arrived, in their order; nothing else.
    InOrder(usize),
    /// Of each sector, any of what was written since then, what was there before, or nothing that can be read.
    Any,
    /// The same; and the erase block that was being programmed loses what it held for long, too.
    Neighbours,
}

/// A card.
#[derive(Clone, Default)]
pub struct Card {
    /// What is there after a cut for certain.
    durable: Image,
    /// What is read.
    now: Image,
    /// The writes since the last FLUSH, in their order.
    cached: Vec<(u64, Vec<u8>)>,
    /// The last write, which the flash may still be at.
    last: Option<Range<u64>>,
    /// Sectors.
    pub size: u64,
    /// Sectors that are erased together.
    pub erase_block: u64,
    /// It confirms a write once it is durable.
    pub no_cache: bool,
    /// Its switch is on: no writes.
    pub protected: bool,
    /// It is gone, or answers nothing.
    pub dead: bool,
    /// It confirms FLUSHes with an error.
    pub no_flush: bool,
    /// What it refuses.
    pub refuses: Vec<Refusal>,
    /// Requests so far: reads, writes, FLUSHes.
    pub requests: [u64; 3],
}

impl Card {
    /// An empty one.
    pub fn new(size: u64, erase_block: u64) -> Self {
        Self { size, erase_block, ..Self::default() }
    }

    fn refuse(&mut self, writes: bool, asked: &Range<u64>) -> Result<(), Errno> {
        let met = self.refuses.iter_mut().find(|refusal| {
            refusal.writes == writes && touches(&refusal.sectors, asked) && refusal.left != Some(0)
        });
        match met {
            Some(refusal) => {
                refusal.left = refusal.left.map(|left| left - 1);
                Err(Errno::EIO)
            }
            None if self.dead => Err(Errno::EIO),
            None => Ok(()),
        }
    }

    /// Reads.
    pub fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.requests[0] += 1;
        self.refuse(false, &range(sector, into.len()))?;
        self.now.read(byte(sector), into);
        Ok(())
    }

    /// Writes. With `fua` it is durable when it is confirmed.
    pub fn write(&mut self, sector: u64, from: &[u8], fua: bool) -> Result<(), Errno> {
        self.requests[1] += 1;
        let asked = range(sector, from.len());
        self.refuse(true, &asked)?;
        if self.protected {
            return Err(Errno::EIO);
        }
        self.now.write(byte(sector), from);
        // A sector that could not be read is a new one.
        self.refuses.retain(|refusal| {
            refusal.writes
                || !(asked.start <= refusal.sectors.start && refusal.sectors.end <= asked.end)
        });
        self.last = Some(asked);
        if fua || self.no_cache {
            // Nothing older comes after it.
            let asked = range(sector, from.len());
            let older = std::mem::take(&mut self.cached).into_iter();
            let by_sector =
                older.flat_map(|(start, data)| match touches(&range(start, data.len()), &asked) {
                    false => vec![(start, data)],
                    true => (start..).zip(data.chunks(SECTOR).map(<[u8]>::to_vec)).collect(),
                });
            self.cached = by_sector
                .filter(|(start, data)| !touches(&range(*start, data.len()), &asked))
                .collect();
            self.durable.write(byte(sector), from);
        } else {
            self.cached.push((sector, from.to_vec()));
        }
        Ok(())
    }

    /// Makes durable what was written.
    pub fn flush(&mut self) -> Result<(), Errno> {
        self.requests[2] += 1;
        if self.dead || self.no_flush {
            return Err(Errno::EIO);
        }
        self.durable = self.now.clone();
        self.cached.clear();
        self.last = None;
        Ok(())
    }

    /// How many writes a cut could still take away.
    pub fn at_stake(&self) -> usize {
        self.cached.len()
    }

    /// The power goes, and comes back.
    pub fn cut(&mut self, cut: Cut, dice: Dice<'_>) {
        let cached = std::mem::take(&mut self.cached);
        let mut after = self.durable.clone();
        let mut lost = Vec::new();
        match cut {
            Cut::InOrder(arrived) => {
                for (sector, data) in cached.iter().take(arrived) {
                    after.write(byte(*sector), data);
                }
            }
            Cut::Any | Cut::Neighbours => {
                let sectors =
                    cached.iter().flat_map(|(sector, data)| (*sector..).zip(data.chunks(SECTOR)));
                let mut versions = std::collections::BTreeMap::<u64, Vec<&[u8]>>::new();
                for (sector, data) in sectors {
                    versions.entry(sector).or_default().push(data);
                }
                for (sector, versions) in versions {
                    // One of 16 is torn: it can't be read until it is written again.
                    if dice(16) == 0 {
                        lost.push(sector);
                    }
                    // The last one most often.
                    match dice(2 * versions.len() as u64 + 1) as usize {
                        0 => {}
                        version => after
                            .write(byte(sector), versions[(version - 1).min(versions.len() - 1)]),
                    }
                }
            }
        }
        if let (Cut::Neighbours, Some(last)) = (cut, self.last.take())
            && self.erase_block > 0
        {
            let begin = last.end.saturating_sub(1) / self.erase_block * self.erase_block;
            for sector in begin..(begin + self.erase_block).min(self.size) {
                match dice(4) {
                    0 => lost.push(sector),
                    1 => after.write(byte(sector), &[0xFF; SECTOR]),
                    _ => {}
                }
            }
        }
        self.refuses.extend(lost.into_iter().map(|sector| Refusal {
            sectors: sector..sector + 1,
            writes: false,
            left: None,
        }));
        self.now = after.clone();
        self.durable = after;
        self.last = None;
    }

    /// Bytes change of themselves: the card lost a block, or somebody else wrote.
    pub fn garble(&mut self, sector: u64, with: &[u8]) {
        self.now.write(byte(sector), with);
        self.durable.write(byte(sector), with);
    }

    /// What is there, whatever the card refuses.
    pub fn look(&self, sector: u64, into: &mut [u8]) {
        self.now.read(byte(sector), into);
    }
}

fn touches(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn range(sector: u64, bytes: usize) -> Range<u64> {
    sector..sector + (bytes / SECTOR) as u64
}
