//! Plain processes whose terminal or log pipe a supervisor holds: it keeps its end, and
//! gives them another one at the restore. A file of the supervisor's may be replaced.

use cedana_integration::command;

/// A supervisor in Python, with a terminal and pipes of its own.
const SUPERVISOR: &str = r#"
import fcntl, os, pty, select, subprocess, sys, tempfile, termios, time
home = tempfile.mkdtemp(dir='/var/tmp')
os.makedirs(home + '/checkpoints')
def run(*words, kept=[]):
    done = subprocess.run(['cedana-process', *words], capture_output=True, text=True,
        pass_fds=kept)
    return done.returncode, done.stdout.split(), done.stderr
def dump(pid, *flags):
    code, words, error = run('dump', str(pid), home + '/checkpoints', *flags)
    assert code == 0, error
    return words[-1]
PATIENCE = 180
def eventually(holds, seen):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, seen()
        time.sleep(0.01)
unread = {}
def until(fd, text):
    seen, end = unread.pop(fd, b''), time.monotonic() + PATIENCE
    while text not in seen:
        left = end - time.monotonic()
        assert left > 0 and select.select([fd], [], [], left)[0], seen
        seen += os.read(fd, 1000)
    at = seen.index(text) + len(text)
    unread[fd] = seen[at:]
    return seen[:at]
def says(master, line, answer):
    # Nothing is typed before the prompt: bash may drop it.
    os.write(master, line + b'\n')
    until(master, answer)
    until(master, b'# ')
def own():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"#;

/// Runs a supervisor's story.
#[track_caller]
fn supervises(story: &str) {
    let clean = "\nimport shutil; shutil.rmtree(home)\n";
    let done = command("python3", &["-c", &[SUPERVISOR, story, clean].concat()]).ok();
    for line in done
        .stdout
        .lines()
        .filter(|line| line.starts_with("skipped: "))
    {
        println!("{line}");
    }
}

#[test]
fn a_shell_gets_another_terminal() {
    supervises(
        r#"
master, slave = pty.openpty()
job = subprocess.Popen(['bash', '--norc', '--noprofile', '-i'], stdin=slave, stdout=slave,
    stderr=slave, preexec_fn=own, cwd=home)
os.close(slave)
until(master, b'# ')
says(master, b'X=41; echo started $X', b'started 41')
code, _, error = run('dump', str(job.pid), home + '/checkpoints')
assert code == 1 and 'terminal /dev/pts/' in error, error
says(master, b'echo runs $X', b'runs 41')
archive = dump(job.pid, '--held')
job.wait()
code, _, error = run('restore', archive)
assert code == 1 and 'give it another one' in error, error
master, slave = pty.openpty()
code, words, error = run('restore', archive, '--terminal=' + os.ttyname(slave))
assert code == 0 and int(words[-1]) == job.pid, error
os.close(slave)
says(master, b'echo restored $((X + 1))', b'restored 42')
# Job control and ^C work: it is the terminal of its session.
os.write(master, b'sleep 1000\n')
# ^C is for sleep when it is the terminal's foreground process.
def foreground():
    return open(f'/proc/{os.tcgetpgrp(master)}/comm').read()
eventually(lambda: foreground() == 'sleep\n', foreground)
# Once: another ^C would take what is typed at the prompt along.
os.write(master, b'\x03')
until(master, b'# ')
says(master, b'echo interrupted $X', b'interrupted 41')
os.kill(job.pid, 9)
"#,
    );
}

#[test]
fn a_job_gets_another_log_pipe() {
    supervises(
        r#"
program = '''
import time
n = 0
while True:
    n += 1
    print(f'line {n}.', flush=True)
    time.sleep(0.01)
'''
log, writer = os.pipe()
job = subprocess.Popen(['python3', '-c', program], stdin=subprocess.DEVNULL, stdout=writer,
    stderr=writer, start_new_session=True, cwd=home)
os.close(writer)
until(log, b'line 20.')
code, _, error = run('dump', str(job.pid), home + '/checkpoints')
assert code == 1 and 'is a pipe to process' in error, error
archive = dump(job.pid, '--held')
job.wait()
seen = unread.pop(log, b'')
while True:
    more = os.read(log, 100000)
    if not more: break
    seen += more
code, _, error = run('restore', archive)
assert code == 1 and 'give it another one' in error, error
os.mkfifo(home + '/log')
other = os.open(home + '/log', os.O_RDWR)
code, words, error = run('restore', archive, '--stdio=' + home + '/log')
assert code == 0 and int(words[-1]) == job.pid, error
# No line is lost. Each is written at once, and the first 20 were read above.
numbers = [int(line[5:-1]) for line in seen.decode().split('\n') if line]
last = numbers[-1] if numbers else 20
first = int(until(other, b'.').split(b'line ')[1].split(b'.')[0])
assert first == last + 1, (last, first)
until(other, b'line %d.' % (first + 20))
os.kill(job.pid, 9)
"#,
    );
}

#[test]
fn another_user_gets_nothing() {
    supervises(
        r#"
job = subprocess.Popen(['sleep', '1000'], stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd='/')
theirs = home + '/theirs'
os.mkdir(theirs); os.chown(theirs, 4242, 4242); os.chmod(home, 0o755)
# No memory of root's process.
code, _, error = run('dump', str(job.pid), theirs, '--user=4242')
assert code == 1 and '(sleep) runs as user 0' in error and 'as root' in error, error
assert os.listdir(theirs) == [] and job.poll() is None
# Nor of one that has root's process below it.
pair = subprocess.Popen(['python3', '-c', '''
import ctypes, os, time
if os.fork() != 0:
    os.setgroups([]); os.setresgid(4242, 4242, 4242); os.setresuid(4242, 4242, 4242)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE, which the change of user has reset
time.sleep(1000)
'''], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    start_new_session=True, cwd='/')
def owner(): return os.stat(f'/proc/{pair.pid}/environ').st_uid
eventually(lambda: owner() == 4242, owner)
code, _, error = run('dump', str(pair.pid), theirs, '--user=4242')
assert code == 1 and 'runs as user 0' in error and f'process {pair.pid} (' not in error, error
os.killpg(pair.pid, 9); pair.wait()
archive = dump(job.pid)
job.wait()
# Another user may not read it, and gets no process of root's.
code, _, error = run('restore', archive, '--user=4243')
assert code == 1 and 'Permission denied' in error, error
os.chown(archive, 4242, 4242)
os.rename(archive, theirs + '/archive')
archive = theirs + '/archive'
code, _, error = run('restore', archive, '--user=4242')
assert code == 1 and ('signature' in error or 'no key' in error or 'is of user 0' in error), error
assert not os.path.exists(f'/proc/{job.pid}')
code, words, error = run('restore', archive)
assert code == 0, error
os.kill(int(words[-1]), 9)
"#,
    );
}

#[test]
fn a_user_s_own_process_is_the_user_s() {
    supervises(
        r#"
def demote():
    os.setgroups([4242]); os.setresgid(4242, 4242, 4242); os.setresuid(4242, 4242, 4242)
def start(*command):
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, cwd='/', preexec_fn=demote)
theirs = home + '/theirs'
os.mkdir(theirs); os.chown(theirs, 4242, 4242); os.chmod(home, 0o755)
job = start('sleep', '1000')
# To a directory that the user can't write to, or not even reach.
for place in [home + '/checkpoints', '/etc', '/root']:
    code, _, error = run('dump', str(job.pid), place, '--user=4242')
    assert code == 1 and 'Permission denied' in error, error
# A protected process is not.
protected = start('python3', '-c',
    'import ctypes, time; ctypes.CDLL(None).prctl(4, 0); time.sleep(1000)')
def owner(): return os.stat(f'/proc/{protected.pid}/environ').st_uid
eventually(lambda: owner() == 0, owner)
code, _, error = run('dump', str(protected.pid), theirs, '--user=4242')
assert code == 1 and 'is protected' in error, error
protected.kill()
# CRIU needs it to read and set the limits of processes of another uid.
effective = [line for line in open('/proc/self/status') if line.startswith('CapEff:')]
if not int(effective[0].split()[1], 16) & 1 << 24:
    print('skipped: this machine gives no CAP_SYS_RESOURCE, which CRIU needs to dump another user\'s process')
    job.kill()
else:
    code, words, error = run('dump', str(job.pid), theirs, '--user=4242')
    assert code == 0, error
    archive = words[-1]
    job.wait()
    status = os.stat(archive)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (4242, 4242, 0o600)
    assert os.listdir(theirs) == [os.path.basename(archive)], os.listdir(theirs)
    code, words, error = run('restore', archive)
    assert code == 0, error
    assert os.stat(f'/proc/{words[-1]}').st_uid == 4242
    os.kill(int(words[-1]), 9)
"#,
    );
}

#[test]
fn a_job_gets_another_output_file_or_its_own() {
    supervises(
        r#"
program = '''
import os, time
child = os.fork()
n = 0
while True:
    n += 1
    print(f'{"child" if child == 0 else "root"} {n}.', flush=True)
    time.sleep(0.01)
'''
jobs = home + '/jobs'
os.mkdir(jobs, 0o700)
log = jobs + '/output.log'
writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
job = subprocess.Popen(['python3', '-c', program], stdin=subprocess.DEVNULL, stdout=writer,
    stderr=writer, start_new_session=True, cwd='/')
os.close(writer)
def whole_lines(path):
    # The last one may be half written.
    return open(path).read().split('\n')[:-1]
def last(path, who):
    lines = [line for line in whole_lines(path) if line.startswith(who)]
    return int(lines[-1].split()[1][:-1]) if lines else 0
def goes_on(path, since):
    for who in ('root', 'child'):
        eventually(lambda: last(path, who) >= since[who] + 20, lambda: open(path).read())
def now(path): return {who: last(path, who) for who in ('root', 'child')}
goes_on(log, {'root': 0, 'child': 0})
archive = dump(job.pid, '--output=' + log)
job.wait()
# Stock: the file is where it was.
since = now(log)
code, words, error = run('restore', archive)
assert code == 0 and int(words[-1]) == job.pid, error
goes_on(log, since)
archive = dump(job.pid, '--output=' + log)
since = now(log)
# Another file, and the old one is missing: on another machine, or of a deleted job.
import shutil; shutil.rmtree(jobs)
code, _, error = run('restore', archive)
assert code == 1 and 'output.log' in error, error
other = home + '/other.log'
open(other, 'w').close()
for flags in [[], ['--namespace']]:
    code, words, error = run('restore', archive, '--append=' + other, *flags)
    assert code == 0, error
    goes_on(other, since)
    # Each line is whole, so both append.
    assert all(line.endswith('.') for line in whole_lines(other)), other
    assert not os.path.exists(log)
    pid = int(words[-1])
    os.killpg(pid, 9)
    eventually(lambda: not os.path.exists(f'/proc/{pid}'), lambda: f'process {pid} runs')
    open(other, 'w').close()
"#,
    );
}

#[test]
fn a_record_is_written_before_the_process_ends() {
    supervises(
        r#"
job = subprocess.Popen(['sleep', '1000'], stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd='/')
# A record that can't be written does not end the process.
code, _, error = run('dump', str(job.pid), home + '/checkpoints', '--record=/nowhere/record')
assert code == 1 and 'is complete, but cannot be recorded' in error, error
assert job.poll() is None
for archive in os.listdir(home + '/checkpoints'):
    assert archive.endswith('.tar'), archive
    os.unlink(home + '/checkpoints/' + archive)
archive = dump(job.pid, '--leave-running', '--record=' + home + '/first')
assert open(home + '/first').read().split()[0] == archive
archive = dump(job.pid, '--record=' + home + '/second')
job.wait()
path, state = open(home + '/second').read().split()
# The process is in CRIU's hands.
assert (path, state) == (archive, 't'), (path, state)
"#,
    );
}

#[test]
fn what_was_given_into_a_namespace_is_dumped_again() {
    supervises(
        r#"
program = '''
import time
n = 0
while True:
    n += 1
    print(f'line {n}.', flush=True)
    time.sleep(0.01)
'''
def start(out):
    return subprocess.Popen(['python3', '-c', program], stdin=subprocess.DEVNULL, stdout=out,
        stderr=out, start_new_session=True, cwd='/')
def restore(*words, kept=[]):
    code, said, error = run('restore', *words, '--namespace', kept=kept)
    assert code == 0, error
    return int(said[-1])
def lines(path): return open(path).read().count('.')
# A file.
log = home + '/output.log'
writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
job = start(writer)
archive = dump(job.pid, '--output=' + log)
job.wait()
for number in range(3):
    other = f'{home}/other-{number}.log'
    open(other, 'w').close()
    pid = restore(archive, '--append=' + other)
    eventually(lambda: lines(other) >= 20, lambda: open(other).read())
    archive = dump(pid, '--output=' + other)
# A pipe.
log, writer = os.pipe()
job = start(writer)
os.close(writer)
until(log, b'line 20.')
archive = dump(job.pid, '--held')
job.wait()
for number in range(3):
    log, writer = os.pipe()
    pid = restore(archive, f'--stdio=/proc/self/fd/{writer}', kept=[writer])
    os.close(writer)
    until(log, b'.')
    archive = dump(pid, '--held')
# A terminal.
master, slave = pty.openpty()
job = subprocess.Popen(['bash', '--norc', '--noprofile', '-i'], stdin=slave, stdout=slave,
    stderr=slave, preexec_fn=own, cwd=home)
os.close(slave)
until(master, b'# ')
says(master, b'X=41; echo started $X', b'started 41')
archive = dump(job.pid, '--held')
job.wait()
for number in range(3):
    master, slave = pty.openpty()
    pid = restore(archive, '--terminal=' + os.ttyname(slave))
    os.close(slave)
    says(master, b'echo restored $((X + 1))', b'restored 42')
    archive = dump(pid, '--held')
"#,
    );
}
