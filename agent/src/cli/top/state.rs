//! What is shown, and what keys do. Pure: it reads nothing and draws nothing.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    sample::{Node, Sample},
    table::{Arrangement, Direction, Subject, Table},
};
use crate::dataplane::ServiceKey;

/// How many rows a page key moves by.
const PAGE: isize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Browse,
    /// Keys are the filter's.
    EditFilter,
    Help,
}

/// Whether samples change what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Motion {
    #[default]
    Live,
    Paused,
}

/// What the loop has to do after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    None,
    /// Draw the whole screen, which may have changed as a whole.
    Clear,
    /// As `Clear`, and read the backends of [`State::opened`] at once.
    Read,
    Quit,
}

#[derive(Debug, Clone)]
pub struct State {
    pub interval: Duration,
    /// `None` before the first sample.
    pub node: Option<Node>,
    /// Why the last reading failed.
    pub error: Option<String>,
    pub mode: Mode,
    pub motion: Motion,
    pub arrangement: Arrangement,
    services: Table,
    /// The service port whose backends and clients are shown, with them.
    opened: Option<(ServiceKey, Table)>,
}

impl State {
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            node: None,
            error: None,
            mode: Mode::default(),
            motion: Motion::default(),
            arrangement: Arrangement::default(),
            services: Table::default(),
            opened: None,
        }
    }

    pub fn apply(&mut self, sample: Sample) {
        if self.motion == Motion::Paused {
            return;
        }
        self.error = None;
        self.node = Some(sample.node);
        if let Some(services) = sample.services {
            let rows = services
                .into_iter()
                .map(|(key, totals)| (key.to_string(), Subject::Service(key), totals));
            self.services.update(rows, sample.at, &self.arrangement);
        }
        // Those that were asked for may be of a service that was left meanwhile.
        if let Some(read) = sample.opened
            && let Some((opened, table)) = &mut self.opened
            && read.key == *opened
        {
            let backends = read.backends.into_iter().map(|backend| {
                (backend.address.to_string(), Subject::Backend(backend.class), backend.totals)
            });
            let clients = read.clients.into_iter();
            let clients =
                clients.map(|(name, totals)| (format!("from {name}"), Subject::Client, totals));
            let rows = backends.chain(clients);
            // The filter is for services.
            let arrangement = Arrangement { filter: String::new(), ..self.arrangement.clone() };
            table.update(rows, sample.at, &arrangement);
        }
    }

    /// The counters could not be read: what is shown stays.
    pub fn fail(&mut self, error: String) {
        self.error = Some(error);
    }

    /// The service port whose backends are shown.
    #[must_use]
    pub fn opened(&self) -> Option<&ServiceKey> {
        self.opened.as_ref().map(|(key, _)| key)
    }

    /// The rows that are shown: backends, or services.
    #[must_use]
    pub fn table(&self) -> &Table {
        self.opened.as_ref().map_or(&self.services, |(_, table)| table)
    }

    fn table_mut(&mut self) -> &mut Table {
        self.opened.as_mut().map_or(&mut self.services, |(_, table)| table)
    }

    pub fn press(&mut self, key: KeyEvent) -> Reaction {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Reaction::Quit,
                KeyCode::Char('l') => Reaction::Clear,
                _ => Reaction::None,
            };
        }
        match self.mode {
            Mode::Browse => self.browse(key.code),
            Mode::EditFilter => self.edit_filter(key.code),
            Mode::Help => {
                self.mode = Mode::Browse;
                if key.code == KeyCode::Char('q') { Reaction::Quit } else { Reaction::Clear }
            }
        }
    }

    fn browse(&mut self, key: KeyCode) -> Reaction {
        match key {
            KeyCode::Char('q') => return Reaction::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.table_mut().move_selection(-1),
            KeyCode::Down | KeyCode::Char('j') => self.table_mut().move_selection(1),
            KeyCode::PageUp => self.table_mut().move_selection(-PAGE),
            KeyCode::PageDown => self.table_mut().move_selection(PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.table_mut().move_selection(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.table_mut().move_selection(isize::MAX),
            KeyCode::Enter => return self.open(),
            KeyCode::Esc | KeyCode::Backspace => return self.leave(),
            KeyCode::Char('s') => {
                self.arrangement.sort = self.arrangement.sort.next();
                self.arrange();
            }
            KeyCode::Char('r') => {
                self.arrangement.direction = match self.arrangement.direction {
                    Direction::Usual => Direction::Reverse,
                    Direction::Reverse => Direction::Usual,
                };
                self.arrange();
            }
            KeyCode::Char('/') if self.opened.is_none() => self.mode = Mode::EditFilter,
            KeyCode::Char('?' | 'h') => {
                self.mode = Mode::Help;
                return Reaction::Clear;
            }
            KeyCode::Char(' ') => {
                self.motion = match self.motion {
                    Motion::Live => Motion::Paused,
                    Motion::Paused => Motion::Live,
                };
            }
            _ => {}
        }
        Reaction::None
    }

    fn edit_filter(&mut self, key: KeyCode) -> Reaction {
        match key {
            KeyCode::Enter => self.mode = Mode::Browse,
            KeyCode::Esc => {
                self.mode = Mode::Browse;
                self.arrangement.filter.clear();
            }
            KeyCode::Backspace => {
                self.arrangement.filter.pop();
            }
            KeyCode::Char(character) if !character.is_control() => {
                self.arrangement.filter.push(character);
            }
            _ => {}
        }
        self.arrange();
        Reaction::None
    }

    fn arrange(&mut self) {
        self.services.arrange(&self.arrangement);
        if let Some((_, table)) = &mut self.opened {
            let arrangement = Arrangement { filter: String::new(), ..self.arrangement.clone() };
            table.arrange(&arrangement);
        }
    }

    /// Shows the backends and clients of the selected service port.
    fn open(&mut self) -> Reaction {
        let subject = self.table().selected().map(|row| row.subject.clone());
        let Some(Subject::Service(key)) = subject else { return Reaction::None };
        self.opened = Some((key, Table::default()));
        // Otherwise nothing would be shown.
        self.motion = Motion::Live;
        Reaction::Read
    }

    /// Goes back to the services, or removes the filter.
    fn leave(&mut self) -> Reaction {
        if self.opened.take().is_some() {
            return Reaction::Clear;
        }
        self.arrangement.filter.clear();
        self.arrange();
        Reaction::None
    }
}

#[cfg(test)]
mod tests;
