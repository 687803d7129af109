"""Units and the lists they stand in: every unit is a number, every list a set of runs of consecutive numbers.

A run is ``(first unit, count)``. All lists of a pool share one :class:`UnitMap`, because each unit is in at most
one list: five integers per unit (length of the run that starts here, first unit of the run that ends here, the
list, and the two links), 24 bytes in all, whatever the fragmentation. Taking from and putting into a list
costs by run: constant for one run, whether it has one unit or a million, and neighbours in the same list are
joined when a run comes home.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

#: Runs of consecutive units, as ``(first unit, count)``.
Runs = tuple[tuple[int, int], ...]

_NONE = -1


class UnitMap:
    """Where the runs of units 0 … ``capacity - 1`` begin, end, and which list each is in."""

    __slots__ = ("back", "capacity", "following", "length", "list_id", "next_list_id", "preceding")

    def __init__(self, capacity: int) -> None:
        self.capacity = 0
        self.next_list_id = 1
        #: length[u] is the length of the run that starts at u, 0 when none does. One more cell than units, so
        #: that the successor of the last unit can be looked up.
        self.length = array("i", [0])
        #: back[u] is the first unit of the run that ends at u; only believed when that run agrees.
        self.back = array("i")
        #: list_id[u] is the list of the run that starts at u.
        self.list_id = array("q")
        self.following = array("i")
        self.preceding = array("i")
        self.extend(capacity)

    def extend(self, units: int) -> None:
        """Room for ``units`` more units; they are in no list yet."""
        for column in (self.length, self.back, self.list_id, self.following, self.preceding):
            column.frombytes(bytes(column.itemsize * units))
        self.capacity += units

    def copy(self) -> UnitMap:
        """An independent map with the same content."""
        other = UnitMap.__new__(UnitMap)
        for name in ("length", "back", "list_id", "following", "preceding"):
            setattr(other, name, getattr(self, name)[:])
        other.capacity, other.next_list_id = self.capacity, self.next_list_id
        return other


class UnitList:
    """A list of units: the free buffer list 35, or the reserved buffer list 33 of one reservation.

    ``units`` counts its units; ``head`` is the first unit of its first run, or -1 when it is empty.
    """

    __slots__ = ("_id", "_map", "head", "units")

    def __init__(self, unit_map: UnitMap) -> None:
        self._map = unit_map
        self._id = unit_map.next_list_id
        unit_map.next_list_id += 1
        self.head = _NONE
        self.units = 0

    def copy(self, unit_map: UnitMap) -> UnitList:
        """The same list in a copied map."""
        other = UnitList.__new__(UnitList)
        other._map, other._id, other.head, other.units = unit_map, self._id, self.head, self.units
        return other

    def take(self, units: int) -> Runs:
        """Remove and return exactly ``units`` units, from the far end of the first runs.

        The caller has checked that there are as many.
        """
        head = self.head
        unit_map = self._map
        length = unit_map.length
        remaining = length[head] - units
        if remaining > 0:
            length[head] = remaining
            first = head + remaining
            unit_map.back[first - 1] = head
            self.units -= units
            return ((first, units),)
        return self._take_whole_runs(units)

    def _take_whole_runs(self, units: int) -> Runs:
        length, following = self._map.length, self._map.following
        runs = []
        missing = units
        while missing:
            head = self.head
            count = length[head]
            if count > missing:
                first = head + count - missing
                length[head] = count - missing
                self._map.back[first - 1] = head
                runs.append((first, missing))
                break
            length[head] = 0
            self.head = following[head]
            runs.append((head, count))
            missing -= count
        if self.head != _NONE:
            self._map.preceding[self.head] = _NONE
        self.units -= units
        return tuple(runs)

    def put(self, first: int, count: int) -> None:
        """Add one run, joining it with its neighbours in this list."""
        unit_map = self._map
        length, back = unit_map.length, unit_map.back
        self.units += count
        end = first + count
        behind = length[end]
        if behind and unit_map.list_id[end] == self._id:
            self._unlink(end)
            length[end] = 0
            count += behind
            end += behind
        if first:
            before = back[first - 1]
            size = length[before]
            if size and before + size == first and unit_map.list_id[before] == self._id:
                length[before] = size + count
                back[end - 1] = before
                return
        length[first] = count
        back[end - 1] = first
        unit_map.list_id[first] = self._id
        head = self.head
        unit_map.following[first] = head
        unit_map.preceding[first] = _NONE
        if head != _NONE:
            unit_map.preceding[head] = first
        self.head = first

    def _unlink(self, first: int) -> None:
        before, after = self._map.preceding[first], self._map.following[first]
        if before == _NONE:
            self.head = after
        else:
            self._map.following[before] = after
        if after != _NONE:
            self._map.preceding[after] = before

    def runs(self) -> Iterator[tuple[int, int]]:
        """Every run of the list, first to last."""
        first = self.head
        while first != _NONE:
            yield first, self._map.length[first]
            first = self._map.following[first]
