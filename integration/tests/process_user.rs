//! Restores for an unprivileged user: CRIU opens none of the files as root.

use cedana_integration::command;

/// A user's programs in a directory of the user's. Each one says how it is when it gets
/// SIGUSR1.
const USER: &str = r#"
import os, shutil, signal, subprocess, sys, tempfile, time
effective = [line for line in open('/proc/self/status') if line.startswith('CapEff:')]
if not int(effective[0].split()[1], 16) & 1 << 24:
    print('skipped: this machine gives no CAP_SYS_RESOURCE, which CRIU needs to dump another user\'s process')
    sys.exit()
# Only signed checkpoints are restored for users.
os.makedirs('/etc/cedana', exist_ok=True)
if not os.path.exists('/etc/cedana/key'):
    with open('/etc/cedana/key', 'w', opener=lambda path, flags: os.open(path, flags, 0o600)) as key:
        key.write('0123456789abcdef' * 4)
home = tempfile.mkdtemp(dir='/var/tmp')
os.chown(home, 4242, 4242)
os.chdir(home)
def demote():
    os.setgroups([4242]); os.setresgid(4242, 4242, 4242); os.setresuid(4242, 4242, 4242)
def write(name, text):
    with open(name, 'w') as file: file.write(text)
    os.chown(name, 4242, 4242)
write('data', 'abcdefghijkl')
ANSWERS = '''
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
log = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
{}
os.write(log, b'ready.')
while True:
    signal.sigwait([signal.SIGUSR1])
    os.write(log, {} + b'.')
'''
def log(): return open('log').read() if os.path.exists('log') else ''
def says(text):
    end = time.monotonic() + 300
    while not log().endswith(text + '.'):
        assert time.monotonic() < end, log()
        time.sleep(0.01)
def start(begin, answer="b'here'"):
    write('log', '')
    job = subprocess.Popen(['python3', '-c', ANSWERS.format(begin, answer)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, preexec_fn=demote)
    says('ready')
    return job
def ask(pid, text):
    os.kill(pid, signal.SIGUSR1)
    says(text)
def run(*words):
    done = subprocess.run(['cedana-process', *words, '--user=4242'], capture_output=True, text=True)
    return done.returncode, done.stdout.split(), done.stderr
def dump(job):
    code, words, error = run('dump', str(job.pid), home)
    assert code == 0, error
    job.wait()
    return words[-1]
def restore(archive):
    code, words, error = run('restore', archive)
    assert code == 0, error
    return int(words[-1])
def refused(words, expected):
    code, _, error = run(*words)
    assert code == 1 and expected in error, error
"#;

/// Runs a user's story.
#[track_caller]
fn user(story: &str) {
    let clean = "\nos.chdir('/'); shutil.rmtree(home)\n";
    let done = command("python3", &["-c", &[USER, story, clean].concat()]).ok();
    let lines = done.stdout.lines();
    for line in lines.filter(|line| line.starts_with("skipped: ")) {
        println!("{line}");
    }
}

#[test]
fn a_file_goes_on_where_it_was_and_nothing_takes_its_place() {
    user(
        r#"
job = start("data = os.open('data', os.O_RDONLY)", "os.read(data, 2)")
ask(job.pid, 'ab')
archive = dump(job)
os.rename('data', 'kept')
os.mkfifo('data'); os.chown('data', 4242, 4242)
refused(['restore', archive], 'not a file or a directory')
os.remove('data'); os.symlink('kept', 'data')
refused(['restore', archive], 'symbolic link')
os.remove('data'); write('data', 'abcdefghijkl'); os.chmod('data', 0o600); os.chown('data', 0, 0)
refused(['restore', archive], 'Permission denied')
os.remove('data'); os.rename('kept', 'data')
pid = restore(archive)
assert os.stat(f'/proc/{pid}').st_uid == 4242
ask(pid, 'cd')
os.kill(pid, 9)
"#,
    );
}

#[test]
fn what_criu_would_open_as_root_is_refused() {
    user(
        r#"
# The dump says so, and the process runs on.
job = start("strange = os.open(b'x\\xff', os.O_RDWR | os.O_CREAT)")
refused(['dump', str(job.pid), home], 'not plain text')
ask(job.pid, 'here')
job.kill(); job.wait()
for begin, expected in [
    ("one = os.open('data', os.O_RDONLY); two = os.open('data', os.O_RDONLY)", 'several times'),
    ("one = os.open('data', os.O_RDONLY); two = os.open('data', os.O_RDWR)", 'several ways'),
    ("own = os.open('/proc/self/stat', os.O_RDONLY)", 'ID of a process'),
    ("import socket; named = socket.socket(socket.AF_UNIX); named.bind('socket')", 'kind 5'),
    ("master, slave = os.openpty()", 'terminal of its own'),
]:
    archive = dump(start(begin))
    refused(['restore', archive], expected)
"#,
    );
}

#[test]
fn a_copy_in_a_namespace_is_the_user_s_too() {
    user(
        r#"
job = start("data = os.open('data', os.O_RDONLY)", "os.read(data, 2)")
code, words, error = run('dump', str(job.pid), home, '--leave-running')
assert code == 0, error
copy = restore(words[-1])
assert copy != job.pid and os.stat(f'/proc/{copy}').st_uid == 4242
job.kill(); job.wait()
ask(copy, 'ab')
code, words, error = run('dump', str(copy), home)
assert code == 0, error
pid = restore(words[-1])
ask(pid, 'cd')
os.kill(pid, 9)
"#,
    );
}
