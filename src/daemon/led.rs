//! A light of the machine that shows what a power cut would cost.
//!
//! The kernel's Documentation/leds/leds-class.rst and ledtrig-timer.

use std::io;
use std::path::PathBuf;

use crate::sys::file;

const LEDS: &str = "/sys/class/leds";

/// What the light shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    /// Off: the card is up to date.
    Rest,
    /// Slow: something worth a flush is in RAM only.
    Pending,
    /// On: don't pull the plug.
    Flushing,
    /// Fast: a flush failed, or the COW is full or lost.
    Alarm,
}

impl Light {
    /// What to show. A flush comes first: a power cut during it can lose more than what is in RAM.
    pub fn of(trouble: bool, flushing: bool, pending: bool) -> Self {
        match (flushing, trouble, pending) {
            (true, _, _) => Light::Flushing,
            (_, true, _) => Light::Alarm,
            (_, _, true) => Light::Pending,
            _ => Light::Rest,
        }
    }

    /// Milliseconds on and off, if the light blinks.
    const fn blink(self) -> Option<(u32, u32)> {
        match self {
            Light::Pending => Some((200, 1800)),
            Light::Alarm => Some((100, 100)),
            Light::Rest | Light::Flushing => None,
        }
    }
}

/// One light.
pub struct Led {
    folder: PathBuf,
    shown: Option<Light>,
}

impl Led {
    /// The light `name`; nothing was shown on it yet.
    pub fn new(name: &str) -> Self {
        Self { folder: PathBuf::from(LEDS).join(name), shown: None }
    }

    /// Shows `light`. Writes nothing if the light shows that already.
    pub fn show(&mut self, light: Light) -> io::Result<()> {
        if self.shown == Some(light) {
            return Ok(());
        }
        // Set before the write may fail: a missing light is tried again at the next change only.
        self.shown = Some(light);
        match light.blink() {
            Some((on, off)) => {
                // These two files exist only with this trigger.
                self.write("trigger", "timer")?;
                self.write("delay_on", &on.to_string())?;
                self.write("delay_off", &off.to_string())
            }
            None => {
                self.write("trigger", "none")?;
                let most = file::read(&self.folder.join("max_brightness"))?;
                self.write("brightness", if light == Light::Flushing { most.trim() } else { "0" })
            }
        }
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        file::set(&self.folder.join(file), value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plug_comes_first() {
        assert_eq!(Light::of(false, false, false), Light::Rest);
        assert_eq!(Light::of(false, false, true), Light::Pending);
        assert_eq!(Light::of(true, false, true), Light::Alarm);
        assert_eq!(Light::of(true, true, true), Light::Flushing);
    }

    #[test]
    fn a_light_is_written_once_a_change() {
        let folder = std::env::temp_dir().join(format!("cowflush-led-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in
            [("trigger", ""), ("brightness", ""), ("delay_on", ""), ("delay_off", "")]
        {
            std::fs::write(folder.join(file), text).unwrap();
        }
        std::fs::write(folder.join("max_brightness"), "7\n").unwrap();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let mut led = Led { folder: folder.clone(), shown: None };
        led.show(Light::Pending).unwrap();
        assert_eq!(
            [read("trigger"), read("delay_on"), read("delay_off")],
            ["timer", "200", "1800"]
        );
        std::fs::write(folder.join("delay_on"), "").unwrap();
        led.show(Light::Pending).unwrap();
        assert_eq!(read("delay_on"), "");
        std::fs::write(folder.join("trigger"), "").unwrap();
        led.show(Light::Flushing).unwrap();
        assert_eq!([read("trigger"), read("brightness")], ["none", "7"]);
        std::fs::remove_dir_all(&folder).unwrap();
        led.show(Light::Alarm).unwrap_err();
    }
}
