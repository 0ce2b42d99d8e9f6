//! `mount -t fuse.feedline` and fstab: who calls us that way, and what `-o` options mean.
//!
//! mount(8) runs `/sbin/mount.fuse.feedline SOURCE DIR -o OPTIONS`, or, without that link, libfuse's
//! `mount.fuse` runs `feedline SOURCE DIR -o OPTIONS`. Both are read as `feedline mount`. An option is
//! the name of a setting, a flag that the kernel applies to any mount, or a word that is meant for
//! mount(8) or systemd alone. Anything else is an error: a misspelt setting must not pass silently.

use std::ffi::{OsStr, OsString};

use rustix::mount::MountFlags;

use crate::failure::Failure;

/// Turns a call by mount(8) or `mount.fuse` into an ordinary `feedline mount …`; others pass as is.
pub(crate) fn rewrite_args(args: Vec<OsString>) -> Vec<OsString> {
    let is_helper = args.first().is_some_and(|program| is_mount_helper(program));
    let starts_with_source =
        args.get(1).is_some_and(|first| first.to_string_lossy().contains("://"));
    if !is_helper && !starts_with_source {
        return args;
    }
    let program = OsString::from("feedline");
    [program, "mount".into()].into_iter().chain(args.into_iter().skip(1)).collect()
}

fn is_mount_helper(program: &OsStr) -> bool {
    let name = program.to_string_lossy();
    let name = name.rsplit('/').next().unwrap_or_default();
    name == "mount.fuse.feedline" || name == "mount.feedline"
}

/// What `-o` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// Settings by name, in the order given.
    pub(crate) settings: Vec<(String, String)>,
    /// Flags that the kernel applies to the mountpoint once it is there.
    pub(crate) kernel: MountFlags,
}

/// Words for mount(8), systemd or people, or that are true of every Feedline mount; no effect here.
/// `rw` is what mount(8) writes for "no preference", and so is no request to write.
const WITHOUT_EFFECT: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "group",
    "loud",
    "noauto",
    "nofail",
    "norelatime",
    "nostrictatime",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "ro",
    "rw",
    "silent",
    "suid",
    "user",
    "users",
    "lazytime",
    "nolazytime",
    "nomand",
    "noiversion",
];

/// Flags of the mountpoint that the kernel itself enforces.
const KERNEL_FLAGS: &[(&str, MountFlags)] = &[
    ("noatime", MountFlags::NOATIME),
    ("nodev", MountFlags::NODEV),
    ("nodiratime", MountFlags::NODIRATIME),
    ("noexec", MountFlags::NOEXEC),
    ("nosuid", MountFlags::NOSUID),
];

/// Reads the texts given with `-o`. `setting` maps an option's name to that of a setting, and says
/// whether it may stand without a value (a switch).
///
/// # Errors
///
/// A usage failure that names the option.
pub(crate) fn parse(
    texts: &[String],
    setting: impl Fn(&str) -> Option<(String, bool)>,
) -> Result<MountOptions, Failure> {
    let mut options = MountOptions { settings: Vec::new(), kernel: MountFlags::empty() };
    for option in texts.iter().flat_map(|text| split(text)).filter(|option| !option.is_empty()) {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.trim_matches('"'))),
            None => (option.as_str(), None),
        };
        // A setting wins: `uid=5` is ours, whatever else the word means elsewhere.
        if let Some((setting_name, is_switch)) = setting(name) {
            let value = match value {
                Some(value) => value,
                None if is_switch => "true",
                None => {
                    return Err(Failure::usage(format!("-o {name} needs a value"))
                        .way_out(format!("write -o {name}=VALUE")));
                }
            };
            options.settings.push((setting_name, value.to_owned()));
        } else if let Some((_, flag)) = KERNEL_FLAGS.iter().find(|(known, _)| *known == name) {
            options.kernel |= *flag;
        } else if !has_no_effect(name) {
            return Err(Failure::usage(format!("-o {name}: no such mount option or setting"))
                .way_out("`feedline config` lists the settings"));
        }
    }
    Ok(options)
}

fn has_no_effect(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    WITHOUT_EFFECT.contains(&name)
        || lower.starts_with("x-")
        || matches!(name, "comment" | "fsname" | "subtype" | "nonempty" | "default_permissions")
}

/// Splits at commas, but not inside double quotes, as mount(8) does.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            ',' if !quoted => parts.push(String::new()),
            _ => {
                quoted ^= letter == '"';
                parts.last_mut().expect("never empty").push(letter);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<(String, bool)> {
        match name {
            "cache" => Some(("cache.dirs".to_owned(), false)),
            "allow_other" => Some(("mount.allow_other".to_owned(), true)),
            _ => None,
        }
    }

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn calls_by_mount_become_the_mount_command() {
        let expected = words("feedline mount s3://b/p /mnt -o rw");
        for call in [
            "/sbin/mount.fuse.feedline s3://b/p /mnt -o rw",
            "mount.feedline s3://b/p /mnt -o rw",
            "feedline s3://b/p /mnt -o rw",
        ] {
            assert_eq!(rewrite_args(words(call)), expected);
        }
        assert_eq!(rewrite_args(words("feedline status")), words("feedline status"));
    }

    #[test]
    fn settings_kernel_flags_and_words_for_systemd_are_told_apart() {
        let texts = [
            "rw,cache=/ssd:100G,noexec,_netdev".to_owned(),
            "x-systemd.automount,allow_other,cache=\"/a,b:1G\"".to_owned(),
        ];
        let options = parse(&texts, lookup).unwrap();
        assert_eq!(options.kernel, MountFlags::NOEXEC);
        let pairs: Vec<(&str, &str)> =
            options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [("cache.dirs", "/ssd:100G"), ("mount.allow_other", "true"), ("cache.dirs", "/a,b:1G")]
        );
    }

    #[test]
    fn a_misspelt_option_is_refused_by_name() {
        let error = parse(&["cahce=/ssd".to_owned()], lookup).unwrap_err();
        assert!(error.message.contains("cahce"), "{error}");
        assert!(parse(&["cache".to_owned()], lookup).unwrap_err().message.contains("value"));
    }
}
