//! Where output goes, and what that place can show.

use std::io::{self, IsTerminal, Write};

use super::Error;

/// Standard output, or a buffer in tests.
pub struct Screen<'a> {
    out: &'a mut dyn Write,
    /// Whether it shows colours: a terminal does, unless `NO_COLOR` is set.
    pub colour: bool,
    terminal: bool,
}

impl<'a> Screen<'a> {
    /// Standard output.
    pub fn stdout(out: &'a mut io::Stdout) -> Self {
        let terminal = out.is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: terminal && !no_color, terminal, out }
    }

    /// A place that is no terminal.
    pub fn plain(out: &'a mut dyn Write) -> Self {
        Self { out, colour: false, terminal: false }
    }

    /// Writes a text at once.
    pub fn print(&mut self, text: &str) -> Result<(), Error> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// Empties a terminal; elsewhere texts follow each other.
    pub fn clear(&mut self) -> Result<(), Error> {
        if self.terminal { self.print("\u{1b}[H\u{1b}[2J") } else { Ok(()) }
    }
}

/// Says something on standard error, where it is in nobody's way.
pub fn note(text: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_recognised() {
        let error = Screen::plain(&mut Closed).print("x").unwrap_err();
        assert!(error.is_broken_pipe());
    }

    #[test]
    fn what_is_no_terminal_is_not_cleared() {
        let mut buffer = Vec::new();
        let mut screen = Screen::plain(&mut buffer);
        screen.clear().unwrap();
        screen.print("x\n").unwrap();
        assert_eq!(buffer, b"x\n");
    }
}
