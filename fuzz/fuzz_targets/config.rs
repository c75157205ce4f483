//! The configuration file.
#![cfg_attr(not(test), no_main)]

use cowflush::pure::config::{Config, HoldFull, OnOverflow};
use cowflush::pure::cow::size::Size;

#[cfg(not(test))]
libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));

/// The input is the file.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut config = Config::default();
    for complaint in config.read(&text) {
        // A line of the system's log.
        assert!(complaint.len() < 300 && !complaint.contains('\n'), "{complaint}");
    }

    // What was understood, written again, is understood in the same way.
    let written = write(&config);
    let mut again = Config::default();
    assert_eq!(again.read(&written), [""; 0], "{written}");
    assert_eq!(again, config, "{written}");
}

/// The file that says what `config` holds.
fn write(config: &Config) -> String {
    let Config {
        size,
        interval,
        at,
        high,
        full_wait,
        memory_low,
        urgent,
        urgent_delay,
        urgent_pause,
        merge_on,
        merge,
        prune,
        idle,
        min_flush,
        on_overflow,
        hold_full,
        spill,
        watchdog,
        metrics,
        led,
    } = config;
    let size = match size {
        Size::Fixed(bytes) => bytes.0.to_string(),
        Size::Percent(percent) => format!("{percent}%"),
    };
    let at: Vec<_> = at.iter().map(|at| format!("{:02}:{:02}", at / 60, at % 60)).collect();
    format!(
        "size={size}\ninterval={}\nat={}\nhigh={high}%\nfull-wait={full_wait}%\nmemory-low={}\n\
         urgent={}\nurgent-delay={}\nurgent-pause={}\nmerge-on={}\nmerge={merge}%\nprune={}\nidle={}\nmin-flush={}\n\
         on-overflow={}\nhold-full={}\nspill={}\nwatchdog={}\nmetrics={}\nled={}\n",
        or_off(*interval, "s"),
        list(&at),
        or_off(*memory_low, "%"),
        list(urgent),
        or_off(*urgent_delay, "ms"),
        or_off(*urgent_pause, "ms"),
        list(merge_on),
        if *prune { "on" } else { "off" },
        or_off(*idle, "s"),
        or_off(min_flush.0, ""),
        match on_overflow {
            OnOverflow::WriteThrough => "write-through",
            OnOverflow::Wait => "wait",
        },
        match hold_full {
            HoldFull::Flush => "flush",
            HoldFull::Discard => "discard",
        },
        or_none(&spill.as_ref().map(ToString::to_string)),
        or_none(watchdog),
        or_none(metrics),
        or_none(led),
    )
}

fn or_off(value: u64, unit: &str) -> String {
    if value == 0 { "off".to_owned() } else { format!("{value}{unit}") }
}

fn or_none(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("none")
}

fn list(values: &[String]) -> String {
    if values.is_empty() { "none".to_owned() } else { values.join(",") }
}
