//! The CRIU configuration file that a container's annotation names.
//!
//! runc and crun pass the file of the annotation `org.criu.config` to CRIU, and it
//! overrides all other options (runc, libcontainer/criu_linux.go,
//! `handleCriuConfigurationFile`). With `action-script` it runs a program as root, and
//! annotations may come from users who do not administer the node. So the file must be
//! one of the administrator's, in `/etc/criu`, unless the node's settings say
//! otherwise. Without the annotation the runtimes pass `/etc/criu/runc.conf`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use cedana_config::ConfigAnnotation;

const NAME: &str = "org.criu.config";

/// The administrator's directory of CRIU configuration files.
const ETC_CRIU: &str = "/etc/criu";

/// Why a container's annotation is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "its annotation {NAME} names a configuration file of CRIU ({file:?}), and the node refuses all of them; remove the annotation, or set criu.config_annotation in config.toml"
    )]
    Refused { file: String },
    #[error(
        "its annotation {NAME} is empty, which turns {ETC_CRIU}/runc.conf off; remove the annotation, or set criu.config_annotation to \"any\" in config.toml"
    )]
    Empty,
    #[error(
        "its annotation {NAME} names {file:?}, a configuration file of CRIU outside {ETC_CRIU}, which could run any program as root; move the file to {ETC_CRIU}, or set criu.config_annotation to \"any\" in config.toml"
    )]
    Outside { file: String },
    #[error("its annotation {NAME} names {file:?}, which is a link to {}, outside {ETC_CRIU}, and could run any program as root; move the file to {ETC_CRIU}, or set criu.config_annotation to \"any\" in config.toml", target.display())]
    Link { file: String, target: PathBuf },
    #[error(
        "its annotation {NAME} names the configuration file of CRIU {file:?}, which cannot be found: {source}; create it, or remove the annotation"
    )]
    Missing { file: String, source: io::Error },
}

/// Refuses a container's `org.criu.config` if the node does not allow it.
pub(crate) fn check(
    annotations: &BTreeMap<String, String>,
    allowed: ConfigAnnotation,
) -> Result<(), Error> {
    let Some(file) = annotations.get(NAME) else {
        return Ok(());
    };
    match allowed {
        ConfigAnnotation::Any => Ok(()),
        ConfigAnnotation::Refuse => Err(Error::Refused { file: file.clone() }),
        ConfigAnnotation::EtcCriu => is_below(file, Path::new(ETC_CRIU)),
    }
}

/// Whether `file` is a path below `home` that leads to a file below it.
///
/// The path itself must be below `home`, too: elsewhere a user could replace a link on
/// the way after this check and before CRIU opens the file.
fn is_below(file: &str, home: &Path) -> Result<(), Error> {
    if file.is_empty() {
        return Err(Error::Empty);
    }
    let path = Path::new(file);
    let outside = || Error::Outside {
        file: file.to_owned(),
    };
    let inside = path.strip_prefix(home).map_err(|_| outside())?;
    if !inside
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(outside());
    }
    let resolved = |path: &Path| {
        path.canonicalize().map_err(|source| Error::Missing {
            file: file.to_owned(),
            source,
        })
    };
    let target = resolved(path)?;
    match target.starts_with(resolved(home)?) {
        true => Ok(()),
        false => Err(Error::Link {
            file: file.to_owned(),
            target,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn annotated(file: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(NAME.to_owned(), file.to_owned())])
    }

    #[test]
    fn a_file_below_the_directory_is_accepted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = dir.path().join("criu");
        fs::create_dir_all(home.join("apps")).expect("mkdir");
        fs::write(home.join("apps/db.conf"), "").expect("write");
        symlink("apps/db.conf", home.join("link.conf")).expect("symlink");
        for name in ["apps/db.conf", "link.conf"] {
            let file = home.join(name).display().to_string();
            is_below(&file, &home).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }

    #[test]
    fn a_file_elsewhere_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = dir.path().join("criu");
        fs::create_dir(&home).expect("mkdir");
        let file = |name: &str| dir.path().join(name).display().to_string();
        fs::write(file("users.conf"), "").expect("write");
        fs::write(file("criu/ours.conf"), "").expect("write");
        symlink(file("users.conf"), file("criu/link.conf")).expect("symlink");
        symlink(file("criu/ours.conf"), file("link.conf")).expect("symlink");
        let refused = |name: &str| is_below(name, &home).expect_err("refused");
        for name in [
            file("users.conf"),
            file("criu/../users.conf"),
            file("criu-of-users/x.conf"),
            // A link elsewhere can change, wherever it leads now.
            file("link.conf"),
            "ours.conf".to_owned(),
        ] {
            assert!(matches!(refused(&name), Error::Outside { .. }), "{name}");
        }
        let link = refused(&file("criu/link.conf"));
        assert!(matches!(link, Error::Link { .. }), "{link}");
        let missing = refused(&file("criu/no.conf"));
        assert!(matches!(missing, Error::Missing { .. }), "{missing}");
        assert!(matches!(refused(""), Error::Empty));
    }

    #[test]
    fn the_node_decides() {
        let users = annotated("/home/user/criu.conf");
        assert!(check(&users, ConfigAnnotation::Any).is_ok());
        let refused = check(&users, ConfigAnnotation::EtcCriu).expect_err("refused");
        let message = refused.to_string();
        for word in ["/home/user/criu.conf", "as root", "criu.config_annotation"] {
            assert!(message.contains(word), "{message}");
        }
        let ours = annotated("/etc/criu/runc.conf");
        assert!(check(&ours, ConfigAnnotation::Refuse).is_err());
        for allowed in [ConfigAnnotation::EtcCriu, ConfigAnnotation::Refuse] {
            assert!(check(&BTreeMap::new(), allowed).is_ok());
        }
    }
}
