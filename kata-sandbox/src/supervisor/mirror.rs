//! What a client knows of a supervisor's containers and processes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::message::Description;
use crate::exit::Exit;
use crate::home::{ContainerFace, ContainerKey, ProcessFace};
use crate::state::ContainerState;

type Processes = HashMap<(ContainerKey, String), Weak<ProcessFace>>;

/// Faces that are kept as the supervisor tells.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    containers: Mutex<BTreeMap<String, Arc<ContainerFace>>>,
    /// Executed processes that somebody has a handle of.
    processes: Mutex<Processes>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn update(face: &ContainerFace, told: &Description) {
    face.init.note_pid(told.pid.unwrap_or_default());
    if let Some(exit) = told.exit {
        face.init.note_exit(exit);
    }
    face.state.send_if_modified(|state| {
        *state != ContainerState::Stopped && std::mem::replace(state, told.state) != told.state
    });
}

fn face_of(told: Description) -> Arc<ContainerFace> {
    let state = told.state;
    let (pid, exit) = (told.pid, told.exit);
    let face = ContainerFace::new(told.key, told.created, told.process, told.terminal);
    face.init.note_pid(pid.unwrap_or_default());
    if let Some(exit) = exit {
        face.init.note_exit(exit);
    }
    face.state.send_replace(state);
    face
}

/// It is there no more: who waits for it need wait no longer.
fn gone(face: &ContainerFace) {
    face.state.send_replace(ContainerState::Stopped);
}

impl Mirror {
    pub(crate) fn get(&self, id: &str) -> Option<Arc<ContainerFace>> {
        lock(&self.containers).get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<ContainerFace>> {
        lock(&self.containers).values().cloned().collect()
    }

    /// The face of that very container; one of its own when it is not among
    /// those that there are.
    pub(crate) fn known(&self, told: Description) -> Arc<ContainerFace> {
        match self.get(&told.key.id).filter(|face| face.key == told.key) {
            Some(face) => face,
            None => face_of(told),
        }
    }

    /// Takes over what is told of a container.
    pub(super) fn apply(&self, told: Description) {
        let mut containers = lock(&self.containers);
        match containers.get(&told.key.id) {
            Some(face) if face.key == told.key => update(face, &told),
            known => {
                if let Some(replaced) = known {
                    gone(replaced);
                }
                containers.insert(told.key.id.clone(), face_of(told));
            }
        }
    }

    /// Takes over that these are all that there are.
    pub(super) fn replace(&self, all: Vec<Description>) {
        let keys: BTreeSet<_> = all.iter().map(|told| told.key.clone()).collect();
        lock(&self.containers).retain(|_, face| {
            let stays = keys.contains(&face.key);
            if !stays {
                gone(face);
            }
            stays
        });
        for told in all {
            self.apply(told);
        }
    }

    /// The container of that id was deleted.
    pub(super) fn remove(&self, id: &str) {
        if let Some(face) = lock(&self.containers).remove(id) {
            gone(&face);
        }
    }

    /// Keeps a process's face as it is told, while somebody has it.
    pub(crate) fn watch(&self, container: &ContainerKey, process: ProcessFace) -> Arc<ProcessFace> {
        let mut processes = lock(&self.processes);
        processes.retain(|_, known| known.strong_count() > 0);
        let name = (container.clone(), process.exec_id().to_owned());
        if let Some(known) = processes.get(&name).and_then(Weak::upgrade) {
            return known;
        }
        let process = Arc::new(process);
        processes.insert(name, Arc::downgrade(&process));
        process
    }

    pub(super) fn process_ended(&self, container: ContainerKey, exec_id: String, exit: Exit) {
        let process = lock(&self.processes).remove(&(container, exec_id));
        if let Some(process) = process.and_then(|process| process.upgrade()) {
            process.note_exit(exit);
        }
    }

    /// Nobody tells any more. Answers the containers whose programs are lost
    /// with that.
    pub(super) fn lose(&self) -> Vec<String> {
        for process in std::mem::take(&mut *lock(&self.processes)).into_values() {
            if let Some(process) = process.upgrade() {
                process.note_exit(Exit::Lost);
            }
        }
        let mut lost = Vec::new();
        for face in lock(&self.containers).values() {
            let ran = matches!(
                face.state(),
                ContainerState::Running | ContainerState::Paused
            );
            if ran && face.init.note_exit(Exit::Lost) {
                lost.push(face.id().to_owned());
            }
            gone(face);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn told(id: &str, number: u64, state: ContainerState) -> Description {
        Description {
            key: ContainerKey {
                id: id.into(),
                number,
            },
            created: SystemTime::UNIX_EPOCH,
            process: oci_spec::runtime::Process::default(),
            terminal: false,
            state,
            pid: None,
            exit: None,
        }
    }

    #[test]
    fn a_face_stays_the_same_while_its_container_lives() {
        let mirror = Mirror::default();
        mirror.apply(told("a", 1, ContainerState::Created));
        let face = mirror.get("a").unwrap();
        mirror.apply(Description {
            pid: Some(7),
            ..told("a", 1, ContainerState::Running)
        });
        assert_eq!(face.state(), ContainerState::Running);
        assert_eq!(face.init.pid(), Some(7));
        let same = mirror.known(told("a", 1, ContainerState::Created));
        assert!(Arc::ptr_eq(&face, &same));
        // One that was made anew is another.
        mirror.apply(told("a", 2, ContainerState::Created));
        assert_eq!(face.state(), ContainerState::Stopped);
        assert_eq!(mirror.get("a").unwrap().state(), ContainerState::Created);
    }

    #[test]
    fn after_a_lag_there_are_those_that_there_are() {
        let mirror = Mirror::default();
        mirror.apply(told("a", 1, ContainerState::Running));
        mirror.apply(told("b", 2, ContainerState::Running));
        mirror.replace(vec![
            told("b", 2, ContainerState::Paused),
            told("c", 3, ContainerState::Created),
        ]);
        let all = mirror.all();
        let states: Vec<_> = all.iter().map(|face| (face.id(), face.state())).collect();
        assert_eq!(
            states,
            [
                ("b", ContainerState::Paused),
                ("c", ContainerState::Created)
            ]
        );
    }

    #[test]
    fn what_runs_is_lost_with_the_supervisor_and_nothing_else() {
        let mirror = Mirror::default();
        mirror.apply(told("created", 1, ContainerState::Created));
        mirror.apply(told("running", 2, ContainerState::Running));
        mirror.apply(Description {
            exit: Some(Exit::Code(3)),
            ..told("ended", 3, ContainerState::Stopped)
        });
        let key = mirror.get("running").unwrap().key.clone();
        let process = mirror.watch(&key, ProcessFace::new("exec-0".into(), false));
        assert_eq!(mirror.lose(), ["running"]);
        assert_eq!(process.exit(), Some(Exit::Lost));
        let exit = |id| mirror.get(id).unwrap().init.exit();
        assert_eq!(exit("created"), None);
        assert_eq!(exit("running"), Some(Exit::Lost));
        assert_eq!(exit("ended"), Some(Exit::Code(3)));
    }
}
