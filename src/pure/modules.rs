//! The modules that an initramfs carries: their list, and their parameters.
//!
//! Pure. `initramfs/build` writes the list, in the order in which they have to be loaded.

use super::cmdline::words;

/// Where the list is: a module's path a line.
pub const LIST: &str = "/lib/modules/list";

/// The paths of the list, in order. Whatever the list holds, no path is empty.
pub fn paths(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|path| !path.is_empty() && !path.starts_with(b"#"))
}

/// The module in a file: its name as the kernel has it.
pub fn name(path: &[u8]) -> String {
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = String::from_utf8_lossy(file);
    // The kernel log takes about a kilobyte a line.
    name.strip_suffix(".ko").unwrap_or(&name).replace('-', "_").chars().take(80).collect()
}

/// What the kernel command line says for a module, such as `libata.dma=0`. The kernel itself passes
/// parameters only to what is built in.
pub fn parameters(name: &str, line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let mut parameters = String::new();
    for word in words(&line).take_while(|word| word != "--") {
        // A dot behind the `=` belongs to the value.
        let Some((module, parameter)) = word.split_once('.') else { continue };
        if module.replace('-', "_") == name {
            let quote =
                if parameter.contains(|c: char| c.is_ascii_whitespace()) { "\"" } else { "" };
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let equals = if parameter.contains('=') { "=" } else { "" };
            parameters.push_str(&format!("{key}{equals}{quote}{value}{quote} "));
        }
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(list: &[u8]) -> Vec<&[u8]> {
        paths(list).collect()
    }

    #[test]
    fn the_list_is_read_in_its_order() {
        let list =
            b"/lib/modules/6.1/libata.ko\n\n# a comment\n  /lib/modules/6.1/ata_piix.ko \r\nz.ko";
        let wanted = ["/lib/modules/6.1/libata.ko", "/lib/modules/6.1/ata_piix.ko", "z.ko"];
        assert_eq!(all(list), wanted.map(str::as_bytes));
        assert!(all(b"").is_empty() && all(b"\n \n#\n").is_empty());
    }

    #[test]
    fn a_file_s_name_is_the_module_s() {
        assert_eq!(name(b"/lib/modules/6.1/kernel/drivers/md/dm-snapshot.ko"), "dm_snapshot");
        assert_eq!(name(b"loop.ko"), "loop");
        assert_eq!(name(b"/odd"), "odd");
        assert_eq!(name(b""), "");
        assert_eq!(name(&[b'x'; 5000]).len(), 80);
    }

    #[test]
    fn a_module_gets_its_parameters_and_no_others() {
        let line =
            b"root=UUID=loop.x loop.max_loop=4 quiet dm-mod.create=\"a b\" loop.flag -- loop.not=1";
        assert_eq!(parameters("loop", line), "max_loop=4 flag ");
        assert_eq!(parameters("dm_mod", line), "create=\"a b\" ");
        assert_eq!(parameters("root=UUID=loop", line), "x ");
        assert_eq!(parameters("ext4", line), "");
        assert_eq!(parameters("libata", b"libata.dma=0\n"), "dma=0 ");
    }

    proptest! {
        #[test]
        fn any_list_and_any_line_are_read(list in prop::collection::vec(any::<u8>(), 0..300), line in ".{0,100}") {
            for path in paths(&list) {
                prop_assert!(!path.is_empty() && !path.contains(&b'\n'));
                let _ = parameters(&name(path), line.as_bytes());
            }
        }
    }
}
