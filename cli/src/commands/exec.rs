//! `cedana exec`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use cedana_api::v1::{RestartPolicy, StartJobRequest};

use super::{Context, Outcome, attach, env_file, job_of, terminal};
use crate::args::{Exec, Restart};
use crate::error::{Error, Result};
use crate::output::to_stdout;

/// Starts a job.
///
/// # Errors
/// The request is not valid or was refused.
pub(crate) async fn run(context: &Context, exec: Exec) -> Result<Outcome> {
    let attached = exec.attach;
    let request = request(exec)?;
    let daemon = context.daemon().await?;
    let job = job_of(daemon.jobs().start_job(request).await?.into_inner().job)?;
    if attached {
        return attach::to(&daemon, job, true).await;
    }
    to_stdout(format!("job {} runs as process {}\n", job.id, job.pid));
    Ok(Outcome::Done)
}

fn request(exec: Exec) -> Result<StartJobRequest> {
    let (arguments, id) = command(exec.positional, exec.words)?;
    let mut environment = Vec::new();
    if exec.terminal
        && let Ok(terminal) = env_file::option("TERM".as_ref())
    {
        environment.push(terminal);
    }
    for file in &exec.env_file {
        environment.extend(env_file::read(file)?);
    }
    for variable in &exec.env {
        environment.push(env_file::option(variable)?);
    }
    let here = std::env::current_dir().map_err(Error::file("find", Path::new(".")))?;
    let bytes = |path: &Path| here.join(path).into_os_string().into_vec();
    let directory = exec
        .directory
        .as_deref()
        .map_or_else(|| bytes(&here), bytes);
    let restart = match exec.restart {
        Restart::Never => RestartPolicy::Never,
        Restart::OnFailure => RestartPolicy::OnFailure,
        Restart::Always => RestartPolicy::Always,
    };
    Ok(StartJobRequest {
        id,
        arguments,
        working_directory: directory,
        environment,
        log_file: exec.log.as_deref().map(bytes).unwrap_or_default(),
        terminal: exec.terminal.then(terminal::size),
        restart_policy: restart.into(),
    })
}

/// The arguments and the ID. Words after `--` are the program; one string before them is
/// the ID then. Without such words the first string is for a shell.
fn command(positional: Vec<OsString>, words: Vec<OsString>) -> Result<(Vec<Vec<u8>>, String)> {
    let mut positional = positional.into_iter();
    let (arguments, id) = if words.is_empty() {
        let text = positional
            .next()
            .filter(|text| !text.is_empty())
            .ok_or_else(|| {
                Error::Other(
                    "there is no command; give one: cedana exec 'python3 example.py' example_job"
                        .to_owned(),
                )
            })?;
        (vec!["/bin/sh".into(), "-c".into(), text], positional.next())
    } else {
        (words, positional.next())
    };
    if positional.next().is_some() {
        return Err(Error::Other(
            "there are two strings before --, and only the job's ID may be there".to_owned(),
        ));
    }
    let id = match id {
        // The daemon would make one up.
        Some(id) if id.is_empty() => Err(OsString::new()),
        Some(id) => id.into_string(),
        None => Ok(String::new()),
    };
    let id = id.map_err(|id| {
        Error::Other(format!(
            "{id:?} is not a valid job ID; give letters, digits, \".\", \"_\" or \"-\""
        ))
    })?;
    Ok((arguments.into_iter().map(OsString::into_vec).collect(), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(positional: &[&str], words: &[&str]) -> Option<(Vec<String>, String)> {
        let owned = |words: &[&str]| words.iter().map(OsString::from).collect();
        let (arguments, id) = command(owned(positional), owned(words)).ok()?;
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Some((arguments.into_iter().map(text).collect(), id))
    }

    #[test]
    fn a_command_is_a_string_or_words() {
        let shell = |text: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
        assert_eq!(
            parsed(&["python3 example.py", "example_job"], &[]),
            Some((shell("python3 example.py"), "example_job".to_owned()))
        );
        assert_eq!(parsed(&["ls"], &[]), Some((shell("ls"), String::new())));
        let words = vec!["ls".to_owned(), "a b".to_owned()];
        assert_eq!(
            parsed(&[], &["ls", "a b"]),
            Some((words.clone(), String::new()))
        );
        assert_eq!(
            parsed(&["id"], &["ls", "a b"]),
            Some((words, "id".to_owned()))
        );
        for wrong in [
            parsed(&[], &[]),
            parsed(&[""], &[]),
            parsed(&["ls", ""], &[]),
            parsed(&["a", "b"], &["ls"]),
        ] {
            assert_eq!(wrong, None);
        }
    }
}
