//! Carries out a day's events at their times, and flushes at intervals; tests/wear/day.py makes the list.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use argh::FromArgs;

use crate::Failure;
use crate::random::Random;

const SECTOR: usize = 512;
/// Where marks go: between the partition table and the first partition.
const MARK_SECTOR: u64 = 4096;
/// The end of the list, and the beginning of a first chunk of events.
const END: &str = "end";

/// Carry out a list of events, one per line (`MILLISECONDS VERB ARGUMENTS`, the last line `end`),
/// below a folder, and run a flush command after every interval. Writes marks into what the card
/// receives meanwhile. Prints `events N late_ms N latest_ms N flushes N`.
#[derive(FromArgs)]
#[argh(subcommand, name = "day")]
pub struct Day {
    /// a file or device with the events
    #[argh(positional)]
    events: String,
    /// the folder
    #[argh(positional)]
    folder: PathBuf,
    /// a shell command that makes all until now durable
    #[argh(option)]
    flush: String,
    /// seconds from flush to flush
    #[argh(option)]
    interval: u64,
    /// for how many seconds
    #[argh(option)]
    seconds: u64,
}

impl Day {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let mut lines = BufReader::new(File::open(&self.events)?).lines();
        let mut router = Router::new(&self.folder);
        let marks = Marks::open()?;
        let begin = Instant::now();
        let mut clock = Clock::new(begin);
        let (mut events, mut flushes) = (0u32, 0u64);
        let mut next = self.event(&mut lines)?;
        marks.set("day", 0)?;
        loop {
            let flush_at = (flushes + 1) * self.interval * 1000;
            let over = flush_at > self.seconds * 1000;
            match &next {
                Some((at, event)) if over || *at < flush_at => {
                    clock.wait(*at);
                    router.carry_out(event).map_err(|error| format!("{event}: {error}"))?;
                    events += 1;
                    next = self.event(&mut lines)?;
                }
                _ if over => break,
                _ => {
                    clock.wait(flush_at);
                    flushes += 1;
                    marks.set("flush", flushes)?;
                    shell(&self.flush)?;
                    marks.set("day", flushes)?;
                }
            }
        }
        marks.set("finish", 0)?;
        println!(
            "events {events} late_ms {} latest_ms {} flushes {flushes}",
            clock.late.as_millis() / u128::from(events.max(1)),
            clock.latest.as_millis()
        );
        Ok(ExitCode::SUCCESS)
    }

    /// The next event, if it belongs to this day.
    fn event(
        &self,
        lines: &mut impl Iterator<Item = std::io::Result<String>>,
    ) -> Result<Option<(u64, String)>, Failure> {
        let line = lines.next().ok_or("the list of events has no end")??;
        if line == END {
            return Ok(None);
        }
        let (at, event) = line.split_once(' ').ok_or("an event without a verb")?;
        Ok(Some((at.parse()?, event.to_owned())))
    }
}

fn shell(command: &str) -> Result<(), Failure> {
    let status = Command::new("/bin/sh").args(["-c", command]).status()?;
    if !status.success() {
        return Err(format!("{command}: {status}").into());
    }
    Ok(())
}

/// Waits for the events' times, and measures how late they were.
struct Clock {
    begin: Instant,
    late: Duration,
    latest: Duration,
}

impl Clock {
    fn new(begin: Instant) -> Self {
        Self { begin, late: Duration::ZERO, latest: Duration::ZERO }
    }

    fn wait(&mut self, milliseconds: u64) {
        let due = self.begin + Duration::from_millis(milliseconds);
        let now = Instant::now();
        if due > now {
            std::thread::sleep(due - now);
        } else {
            self.late += now - due;
            self.latest = self.latest.max(now - due);
        }
    }
}

/// Writes marks: sectors of text that go straight to the card, into the record of its writes.
struct Marks {
    card: File,
}

#[repr(align(4096))]
struct Sector([u8; SECTOR]);

impl Marks {
    fn open() -> Result<Self, Failure> {
        let card = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open("/dev/sda")?;
        Ok(Self { card })
    }

    fn set(&self, name: &str, number: u64) -> Result<(), Failure> {
        let mut sector = Box::new(Sector([0; SECTOR]));
        let text = format!("wear-mark {name} {number}\n");
        sector.0[..text.len()].copy_from_slice(text.as_bytes());
        self.card.write_all_at(&sector.0, MARK_SECTOR * SECTOR as u64)?;
        Ok(())
    }
}

/// What a router's programs do to their files.
struct Router {
    folder: PathBuf,
    syslog: Option<UnixDatagram>,
    appended: HashMap<PathBuf, File>,
}

impl Router {
    fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), syslog: None, appended: HashMap::new() }
    }

    fn carry_out(&mut self, event: &str) -> Result<(), Failure> {
        let (verb, rest) = event.split_once(' ').ok_or("no argument")?;
        let (first, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let number = |n: usize| -> Result<u64, Failure> {
            Ok(words.get(n).ok_or("too few arguments")?.parse()?)
        };
        let path = self.folder.join(first);
        match verb {
            "syslog" => self.syslog(first, number(0)?, number(1)?),
            "append" => self.append(path, &line(number(0)?, number(1)?)),
            "rotate" => self.rotate(&path, number(0)?),
            "rrd-create" => create(&path, &vec![0; usize::try_from(number(0)?)?]),
            "rrd" => rrd(&path, number(0)?, number(1)?, words.get(2).copied(), number(3)?),
            "sql" => sql(&path, rest),
            "rewrite" => rewrite(&path, &text(number(0)?, number(1)?)),
            "replace" => replace(&path, &text(number(0)?, number(2)?), number(1)? == 1),
            "create" => create(&path, &text(number(0)?, number(1)?)),
            "unpack" => unpack(&path, &text(number(0)?, number(1)?)),
            "rename" => Ok(fs::rename(beside(&path, ".dpkg-new"), &path)?),
            "remove" => remove(&path),
            "read" => read(&path),
            _ => Err("unknown verb".into()),
        }
    }

    fn syslog(&mut self, tag: &str, bytes: u64, seed: u64) -> Result<(), Failure> {
        if self.syslog.is_none() {
            let socket = UnixDatagram::unbound()?;
            socket.connect("/dev/log")?;
            self.syslog = Some(socket);
        }
        let mut message = format!("<30>{tag}: ").into_bytes();
        message.extend(line(bytes, seed));
        message.pop();
        self.syslog.as_ref().ok_or("no socket")?.send(&message)?;
        Ok(())
    }

    /// Appends to a file that stays open, as a daemon's log does.
    fn append(&mut self, path: PathBuf, content: &[u8]) -> Result<(), Failure> {
        if !self.appended.contains_key(&path) {
            make_folder(&path)?;
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            self.appended.insert(path.clone(), file);
        }
        self.appended.get_mut(&path).ok_or("not open")?.write_all(content)?;
        Ok(())
    }

    /// Rotates as logrotate does: FILE.N.gz to FILE.N+1.gz, FILE to FILE.1.gz. syslogd reopens its
    /// file itself.
    fn rotate(&mut self, path: &Path, keep: u64) -> Result<(), Failure> {
        self.appended.remove(path);
        let name = path.display();
        let mut script = format!("[ -s {name} ] || exit 0\nrm -f {name}.{keep}.gz\n");
        for n in (1..keep).rev() {
            script += &format!("[ ! -e {name}.{n}.gz ] || mv {name}.{n}.gz {name}.{}.gz\n", n + 1);
        }
        script += &format!("mv {name} {name}.1 && : >{name} && sleep 2 && gzip {name}.1\n");
        shell(&script)
    }
}

/// This many printable bytes, the same for the same seed; they compress as text does.
fn text(bytes: u64, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the",
        "router",
        "eth0",
        "192.168.1.",
        "accepted",
        "from",
        "port",
        "session",
        "=",
        "dropped",
        "key",
        "lease",
        "query",
        "reply",
        "up",
        "0x",
    ];
    let mut random = Random::new(seed);
    let mut content = Vec::new();
    let bytes = usize::try_from(bytes).unwrap_or(0);
    while content.len() < bytes {
        let word = WORDS[random.below(WORDS.len())];
        content.extend(format!("{word} {} ", random.below(100_000)).bytes());
    }
    content.truncate(bytes);
    content
}

fn line(bytes: u64, seed: u64) -> Vec<u8> {
    let mut content = text(bytes.saturating_sub(1), seed);
    content.push(b'\n');
    content
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    Ok(fs::create_dir_all(path.parent().ok_or("a path without a folder")?)?)
}

fn create(path: &Path, content: &[u8]) -> Result<(), Failure> {
    make_folder(path)?;
    Ok(fs::write(path, content)?)
}

/// Writes the head, then a row of each archive whose turn it is.
fn rrd(path: &Path, head: u64, row: u64, places: Option<&str>, seed: u64) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut random = Random::new(seed);
    let mut content = vec![0; usize::try_from(head.max(row))?];
    random.fill(&mut content);
    let (head, row) = (usize::try_from(head)?, usize::try_from(row)?);
    file.write_all_at(&content[..head], 0)?;
    for place in places.unwrap_or("-").split(',').filter(|place| *place != "-") {
        file.write_all_at(&content[..row], place.parse()?)?;
    }
    Ok(())
}

/// Runs statements; `NOW` is seconds since the first day began, by the guest's own clock, which
/// only runs forward.
fn sql(path: &Path, statements: &str) -> Result<(), Failure> {
    make_folder(path)?;
    let mut uptime = String::new();
    File::open("/proc/uptime")?.read_to_string(&mut uptime)?;
    let now = uptime.split('.').next().unwrap_or("0");
    let statements = statements.replace("NOW", now);
    let done = Command::new("/usr/bin/sqlite3").arg(path).arg(&statements).output()?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned().into());
    }
    Ok(())
}

/// Rewrites a file in place, as dnsmasq does.
fn rewrite(path: &Path, content: &[u8]) -> Result<(), Failure> {
    make_folder(path)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(content, 0)?;
    file.set_len(content.len() as u64)?;
    Ok(file.sync_all()?)
}

fn replace(path: &Path, content: &[u8], sync: bool) -> Result<(), Failure> {
    make_folder(path)?;
    let new = beside(path, ".new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    if sync {
        file.sync_all()?;
    }
    Ok(fs::rename(new, path)?)
}

fn unpack(path: &Path, content: &[u8]) -> Result<(), Failure> {
    make_folder(path)?;
    let mut file = File::create(beside(path, ".dpkg-new"))?;
    file.write_all(content)?;
    Ok(file.sync_all()?)
}

/// Removes a file, unless an earlier day did.
fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<(), Failure> {
    match fs::read(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
