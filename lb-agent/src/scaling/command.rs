//! Runs a scale command: the program gets NAME CURRENT DESIRED and the environment the design fixes, has a time limit, and its
//! output is logged. What the program leaves running in the background is its own affair once the program itself has ended.

use std::{
    io,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use super::checked::PolicyId;

/// How long a scale command may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Lines of one run that are logged of each of its outputs.
const MAX_LINES: usize = 100;
/// Bytes of a line that are logged as one.
const MAX_LINE: u64 = 1024;
/// How long the last output may come after the program's end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// One run of a scale command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program and its own arguments.
    pub argv: Vec<String>,
    /// The policy it is run for.
    pub policy: PolicyId,
    /// Replicas there are.
    pub current: u32,
    /// Replicas there should be.
    pub desired: u32,
    /// How long it may take.
    pub limit: Duration,
}

/// Why a scale command did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// There is none.
    #[error("no scale command: give the policy spec.command, or start the agent with --scale-command")]
    None,
    /// It could not be started.
    #[error("{program} cannot be started: {source}; check that the file exists and is executable")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be waited for.
    #[error("{program} cannot be waited for: {source}")]
    Wait {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended without success.
    #[error("{program} ended with {status}{}", last_words(.said))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last line it wrote to its error output.
        said: String,
    },
    /// It took too long.
    #[error("{program} was killed after {} s; let it return sooner and do slow work in the background", limit.as_secs_f64())]
    TimedOut {
        /// The program.
        program: String,
        /// How long it had.
        limit: Duration,
    },
}

fn last_words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// Splits `--scale-command` into a program and its arguments as a shell would, or says that its quotes do not match.
pub fn split(text: &str) -> Option<Vec<String>> {
    shlex::split(text).filter(|argv| !argv.is_empty())
}

/// Runs it to its end.
pub async fn run(run: &Run) -> Result<(), CommandError> {
    let [program, arguments @ ..] = run.argv.as_slice() else {
        return Err(CommandError::None);
    };
    let mut child =
        start(program, arguments, run).map_err(|source| CommandError::Start { program: program.clone(), source })?;
    let group = child.id();
    let output = listen(&mut child, &run.policy);
    match tokio::time::timeout(run.limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            let said = output.last_error_line().await;
            Err(CommandError::Failed { program: program.clone(), status, said })
        }
        Ok(Err(source)) => Err(CommandError::Wait { program: program.clone(), source }),
        Err(_) => {
            kill_group(group);
            // It was killed, so this ends; without it, it would stay a zombie.
            let _ = child.wait().await;
            Err(CommandError::TimedOut { program: program.clone(), limit: run.limit })
        }
    }
}

fn start(program: &str, arguments: &[String], run: &Run) -> io::Result<Child> {
    Command::new(program)
        .args(arguments)
        .args([&run.policy.name, &run.current.to_string(), &run.desired.to_string()])
        .env("WEIR_POLICY", &run.policy.name)
        .env("WEIR_NAMESPACE", &run.policy.namespace)
        .env("WEIR_CURRENT_REPLICAS", run.current.to_string())
        .env("WEIR_DESIRED_REPLICAS", run.desired.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Kills the program and all it has started that stayed in its group.
fn kill_group(group: Option<u32>) {
    let Some(group) = group.and_then(|id| i32::try_from(id).ok()) else {
        return;
    };
    // SAFETY: killpg takes no pointers. The group's leader has not been waited for, so its id belongs to nobody else.
    unsafe { libc::killpg(group, libc::SIGKILL) };
}

/// The readers of a program's output. They go on after its end, so that what it left behind does not die of a closed pipe.
struct Output {
    last: Arc<Mutex<String>>,
    errors: Option<JoinHandle<()>>,
}

fn listen(child: &mut Child, policy: &PolicyId) -> Output {
    let last = Arc::new(Mutex::new(String::new()));
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(log_lines(stdout, "stdout", policy.to_string(), Arc::default()));
    }
    let errors = child
        .stderr
        .take()
        .map(|stderr| tokio::spawn(log_lines(stderr, "stderr", policy.to_string(), Arc::clone(&last))));
    Output { last, errors }
}

impl Output {
    async fn last_error_line(self) -> String {
        if let Some(errors) = self.errors {
            // Something in the background may hold the pipe open: then what came so far must do.
            let _ = tokio::time::timeout(LAST_WORDS, errors).await;
        }
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn log_lines(pipe: impl AsyncRead + Unpin, stream: &'static str, policy: String, last: Arc<Mutex<String>>) {
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    for count in 0_usize.. {
        bytes.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        if count < MAX_LINES {
            tracing::info!(policy, stream, "scale command: {line}");
        } else if count == MAX_LINES {
            tracing::warn!(policy, stream, "scale command: further output is not logged");
        }
        if !line.is_empty() {
            line.clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Run {
        let argv = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        let policy = PolicyId { namespace: "shop".to_owned(), name: "web".to_owned() };
        Run { argv, policy, current: 2, desired: 4, limit: Duration::from_secs(20) }
    }

    fn is_running(pid: &str) -> bool {
        // A killed process that its new parent has not waited for is a zombie, and no longer runs.
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn it_gets_its_arguments_and_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("seen");
        let script = format!(
            "echo \"$* $WEIR_POLICY $WEIR_NAMESPACE $WEIR_CURRENT_REPLICAS $WEIR_DESIRED_REPLICAS\" > {}",
            file.display()
        );
        run(&shell(&script)).await.unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "web 2 4 web shop 2 4\n");
    }

    #[tokio::test]
    async fn a_failure_says_how_it_ended_and_what_it_said_last() {
        let error = run(&shell("echo first >&2; echo no room left >&2; exit 3")).await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh ended with exit status: 3: no room left");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_says_so() {
        let missing = Run { argv: vec!["/nowhere/scale".to_owned()], ..shell("") };
        let error = run(&missing).await.unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/scale cannot be started: No such file"), "{error}");
        let none = Run { argv: vec![], ..shell("") };
        assert!(run(&none).await.unwrap_err().to_string().contains("--scale-command"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("child");
        let script = format!("sleep 600 & echo $! > {}; sleep 600", file.display());
        let started = Instant::now();
        let slow = Run { limit: Duration::from_millis(500), ..shell(&script) };
        let error = run(&slow).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
        let child = std::fs::read_to_string(file).unwrap();
        for _ in 0..100 {
            if !is_running(&child) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("process {child} still runs");
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_neither_holds_it_up_nor_dies_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server");
        let server = "sh -c 'sleep 2; echo still here; echo yes > \"$0\"'";
        run(&shell(&format!("{server} {} &", file.display()))).await.unwrap();
        assert!(!file.exists(), "it was waited for");
        for _ in 0..200 {
            if file.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the process in the background died");
    }

    #[tokio::test]
    async fn output_without_end_is_bounded() {
        let script = "yes | head -n 100000; head -c 1000000 /dev/zero; exit 1";
        let error = run(&shell(script)).await.unwrap_err();
        assert!(matches!(error, CommandError::Failed { .. }), "{error}");
    }

    #[test]
    fn a_command_line_is_split_as_a_shell_does() {
        let words = |text| split(text).map(|argv| argv.join("|"));
        assert_eq!(words("/opt/my scale"), Some("/opt/my|scale".to_owned()));
        assert_eq!(words("'/opt/my scale' --fast"), Some("/opt/my scale|--fast".to_owned()));
        assert_eq!(words("'/opt/my scale"), None);
        assert_eq!(words("  "), None);
    }
}
