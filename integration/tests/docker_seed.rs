//! The lines of the original's README, as they stand there, with the daemon at its usual
//! place: a new user types them first.

use std::fs;
use std::process::Command;

use cedana_integration::folder::Folder;

/// The program of the example: memory with a pattern, threads, and a line for each turn.
const EXAMPLE: &str = r#"
import hashlib, os, threading, time
data = bytearray(os.urandom(1 << 20) * 32)
for at in range(0, len(data), 4096): data[at:at + 8] = at.to_bytes(8, 'little')
first = hashlib.sha256(data).hexdigest()
turn = 0
def work():
    global turn
    while True:
        turn += 1
        right = hashlib.sha256(data).hexdigest() == first
        print('turn', turn, 'is right' if right else 'IS WRONG', flush=True)
        time.sleep(0.1)
worker = threading.Thread(target=work)
worker.start()
worker.join()
"#;

/// What is typed. `wait_for` waits for a state that a person would see on the screen.
const TYPED: &str = r#"
set -eu
mkdir bin
printf '#!/bin/sh\nexec "$@"\n' >bin/sudo
chmod +x bin/sudo
PATH=$PWD/bin:$PATH
wait_for() { for _ in $(seq 1200); do if eval "$1" >/dev/null 2>&1; then return; fi; sleep 0.05; done; echo "never: $1"; exit 1; }
turns() { cedana logs example_job | tail -n 1 | cut -d' ' -f2; }

sudo cedana daemon start >daemon.log 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon || cat daemon.log' EXIT
wait_for 'cedana daemon status'
cedana bootstrap
test -s ~/.cedana/cedana_config.json

cedana exec 'python3 example.py' example_job
wait_for 'test $(turns) -gt 3'
cedana ps | grep '^example_job .* running '
JOBID=example_job DIR=$PWD/dumps DIRECTORY=$PWD/containers
mkdir $DIR $DIRECTORY stored
cedana client dump job $JOBID -d $DIR
cedana ps | grep '^example_job .* checkpointed '
ls $DIR | grep -E '^example_job_.*\.tar$'
before=$(turns)
cedana client restore job $JOBID
wait_for 'test $(turns) -gt $((before + 3))'
test $(turns) -lt $((before + 1000))

cat >~/.cedana/cedana_config.json <<END
{
  "shared_storage": {
    "dump_storage_dir": "$PWD/stored/"
  }
}
END
cedana client dump job $JOBID
ls stored | grep -E '^example_job_.*\.tar$'
cedana client restore job $JOBID
cedana checkpoints $JOBID
! cedana logs $JOBID | grep WRONG
cedana job kill $JOBID
cedana job wait $JOBID || test $? = 143

ctr run --detach --runtime io.containerd.cedana.v2 docker.io/library/work:latest test \
  python3 -u -c "$(cat example.py)"
sudo cedana dump containerd -i test -p test
ctr image ls -q | grep '^test$'
wait_for 'ctr task ls | grep "^test .* STOPPED"'
ctr task rm test
ctr container rm test
sudo cedana restore containerd -i test -p again
ctr task ls | grep '^again .* RUNNING'
ctr task kill --signal KILL again
wait_for 'ctr task ls | grep "^again .* STOPPED"'
ctr task rm again
ctr container rm again
ctr image rm test

CONTAINER_ID=$(docker run --detach --runtime cedana work:latest python3 -u -c "$(cat example.py)")
wait_for 'docker logs $CONTAINER_ID | grep "turn 4 is right"'
runcID=$CONTAINER_ID
docker export $CONTAINER_ID -o container_bundle.tar
sudo cedana dump runc -i $runcID -d $DIRECTORY
wait_for 'docker inspect --format "{{.State.Status}}" $CONTAINER_ID | grep exited'
sudo cedana restore --bundle container_bundle.tar -i new_runc_id -d $DIRECTORY
cedana-runc state new_runc_id | grep '"status": "running"'
cedana-runc kill new_runc_id KILL
wait_for 'cedana-runc state new_runc_id | grep stopped'
cedana-runc delete new_runc_id
docker rm $CONTAINER_ID
echo all of it works
"#;

#[test]
fn the_lines_of_the_readme_do_what_it_says() {
    let folder = Folder::new("seed");
    let home = folder.file("home");
    fs::create_dir(&home).unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: &str| {
        fs::write(folder.file(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("example.py", EXAMPLE);
    write("typed", TYPED);
    let typed = Command::new("bash")
        .args(["-x", "typed"])
        .current_dir(&folder.0)
        .env("HOME", &home)
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    let said = String::from_utf8_lossy(&typed.stdout);
    let traced = String::from_utf8_lossy(&typed.stderr);
    assert!(
        typed.status.success() && said.ends_with("all of it works\n"),
        "{said}\n{traced}"
    );
}
