"""Who and what is out in the street: traffic, parked vehicles, people, street furniture."""

from collections.abc import Callable

from ecocseg.data.streets import furniture, labels, people, vehicles
from ecocseg.data.streets.canvas import Canvas
from ecocseg.data.streets.dice import Dice
from ecocseg.data.streets.plan import Lane, Side, Street
from ecocseg.data.streets.style import Style

# How often a scene is given what is rare in a street. Some of it ends up hidden or out of sight.
BUS, TRUCK, MOTORCYCLE, CYCLIST, BICYCLES = 0.42, 0.42, 0.75, 0.85, 0.75
_CONTACT = 150  # how dark the ground is below a vehicle (0..255)
_SLOT = 5.9  # metres of kerb per parked car


class Population:
    """Draws nothing yet: collects (distance, draw) so that the far is drawn before the near."""

    def __init__(self, canvas: Canvas, dice: Dice, style: Style, street: Street) -> None:
        self.canvas = canvas
        self.dice = dice
        self.style = style
        self.street = street
        self.things: list[tuple[float, Callable[[], None]]] = []
        self._taken: list[tuple[float, float, float]] = []  # x, near, far of vehicles

    def draw(self) -> None:
        """Decide on everything, then draw it from far to near."""
        self._tram()
        self._heavy(BUS, bus=True)
        self._heavy(TRUCK, bus=False)
        self._two_wheelers()
        self._traffic()
        for side in self.street.sides:
            if side.parking:
                self._parked(side)
            self._furnish(side)
        self._walkers()
        for _, draw in sorted(self.things, key=lambda thing: -thing[0]):
            draw()

    def _in_sight(self, x: float, low: float, high: float) -> float:
        """A distance from low..high, moved away until x is inside the picture."""
        view = self.canvas.view
        nearest = abs(x) * view.focal / (0.46 * view.width)
        return self.dice.between(max(low, nearest), max(high, nearest + 8))

    def _free(self, x: float, near: float, far: float) -> bool:
        return all(
            abs(x - other) > 2.0 or far < z0 - 1.0 or near > z1 + 1.0
            for other, z0, z1 in self._taken
        )

    def _add_vehicle(
        self, meshes: list[list[vehicles.Face]], label: int, x: float, near: float, oncoming: bool
    ) -> None:
        """Reserve the place and draw later; several meshes follow one another along the lane."""
        canvas = self.canvas
        length = max(corner[2] for mesh in meshes for face in mesh for corner in face.corners)
        self._taken.append((x, near, near + length))
        place = (x, near + length if oncoming else near)
        yaw = (180.0 if oncoming else 0.0) + self.dice.between(-2.0, 2.0)
        # `meshes` starts at the rear, which is the near end unless it comes towards us.
        order = meshes if oncoming else meshes[::-1]

        def draw() -> None:
            for mesh in order:
                vehicles.draw_mesh(canvas, mesh, label, place, yaw)

        foot = meshes[0] if len(meshes) == 1 else [*meshes[0], *meshes[1]]
        vehicles.cast_contact(canvas, foot, place, yaw, _CONTACT)
        self.things.append((near, draw))

    def _tram(self) -> None:
        if self.street.rails is None:
            return
        dice = self.dice
        oncoming = dice.chance(0.5)
        near = self._in_sight(self.street.rails, 6.0, 18.0)
        mesh = vehicles.tram(dice, self.style)
        self._add_vehicle([mesh], labels.TRAIN, self.street.rails, near, oncoming)

    def _heavy(self, probability: float, *, bus: bool) -> None:
        dice, street = self.dice, self.street
        if not dice.chance(probability):
            return
        label = labels.BUS if bus else labels.TRUCK
        meshes = [vehicles.bus(dice, self.style)] if bus else vehicles.truck(dice, self.style)
        parking = [side for side in street.sides if side.parking]
        for _ in range(8):
            if parking and dice.chance(0.3):
                side = dice.pick(parking)
                x, oncoming = side.sign * (side.curb - 1.3), side.sign < 0
            else:
                lane: Lane = dice.pick(street.lanes)
                x, oncoming = lane.x + dice.between(-0.2, 0.2), lane.oncoming
            ours = abs(x) < 1.7
            near = self._in_sight(x, 12.0 if ours else 6.0, 22.0 if ours else 18.0)
            if self._free(x, near, near + 12):
                self._add_vehicle(meshes, label, x, near, oncoming)
                return

    def _traffic(self) -> None:
        dice, street = self.dice, self.street
        for lane in street.lanes:
            z = dice.between(7.0, 24.0) if abs(lane.x) < 1.7 else dice.between(3.0, 20.0)
            while z < min(street.far, 75.0):
                x = lane.x + dice.between(-0.25, 0.25)
                if self._free(x, z, z + 5.0):
                    mesh = vehicles.car(dice, self.style)
                    self._add_vehicle([mesh], labels.CAR, x, z, lane.oncoming)
                z += dice.span(self.style.traffic)
        gaps = [lot for side in street.sides for lot in side.lots if lot.kind == "gap"]
        if gaps and dice.chance(0.4):
            self._crossing(dice.pick(gaps).near + 2.0)

    def _crossing(self, z: float) -> None:
        """A car that crosses our street, in side view."""
        dice, canvas = self.dice, self.canvas
        x, yaw = dice.between(-12.0, 8.0), dice.pick((90.0, -90.0))
        end = x + (5.0 if yaw > 0 else -5.0)
        if z > 50 or not all(self._free(u, z - 1, z + 1) for u in (x, (x + end) / 2, end)):
            return
        mesh = vehicles.car(dice, self.style)
        self._taken += [(u, z - 1.0, z + 1.0) for u in (x, (x + end) / 2, end)]
        vehicles.cast_contact(canvas, mesh, (x, z), yaw, _CONTACT)
        self.things.append(
            (z - 1.0, lambda: vehicles.draw_mesh(canvas, mesh, labels.CAR, (x, z), yaw))
        )

    def _parked(self, side: Side) -> None:
        dice = self.dice
        gaps = [(lot.near, lot.far) for lot in side.lots if lot.kind == "gap"]
        x = side.sign * (side.curb - 1.15)
        density = dice.between(0.3, 0.9)
        z = dice.between(3.0, 10.0)
        while z < min(self.street.far, 65.0):
            blocked = any(near - 5 < z < end for near, end in gaps)
            if not blocked and dice.chance(density) and self._free(x, z, z + 5.0):
                mesh = vehicles.car(dice, self.style)
                oncoming = side.sign < 0 if dice.chance(0.9) else side.sign > 0
                self._add_vehicle([mesh], labels.CAR, x + dice.between(-0.15, 0.15), z, oncoming)
            z += _SLOT + dice.between(-0.3, 0.5)

    def _two_wheelers(self) -> None:
        dice, street = self.dice, self.street
        if dice.chance(MOTORCYCLE):
            self._motorcycle()
        if dice.chance(CYCLIST):
            for _ in range(dice.pick((1, 1, 2, 3))):
                if dice.chance(0.7):
                    side = dice.pick(street.sides)
                    edge = side.curb - (3.0 if side.parking else 0.9)
                    x, along = side.sign * edge, True
                else:
                    x, along = dice.between(-5.0, 5.0), False
                z = self._in_sight(x, 4.5, 11.0)
                if self._free(x, z - 0.5, z + 0.5):
                    self._two_wheeler(x, z, motor=False, ridden=True, along=along)
        if dice.chance(BICYCLES):
            side = dice.pick(street.sides)
            x = side.sign * (side.outer - dice.between(0.4, 0.9))
            z = self._in_sight(x, 4.5, 10.0)
            along = dice.chance(0.3)
            for i in range(dice.whole(1, 5)):
                u, w = (x + i * 0.6, z) if along else (x, z + i * 0.7)
                self._two_wheeler(u, w, motor=False, ridden=False, along=along)

    def _motorcycle(self) -> None:
        dice, street = self.dice, self.street
        if dice.chance(0.5):
            lane: Lane = dice.pick(street.lanes)
            x = lane.x + dice.between(-0.6, 0.6)
            z = self._in_sight(x, 4.5, 11.0)
            if self._free(x, z - 1, z + 1):
                self._taken.append((x, z - 1.0, z + 1.0))
                self._two_wheeler(x, z, motor=True, ridden=True, along=dice.chance(0.8))
            return
        side = dice.pick(street.sides)
        x = side.sign * (side.curb + dice.between(-0.9, 0.7))
        z = self._in_sight(x, 4.5, 11.0)
        if self._free(x, z - 1, z + 1):
            self._taken.append((x, z - 1.2, z + 2.2))
            for i in range(dice.pick((1, 1, 2, 3))):
                along = dice.chance(0.4)
                self._two_wheeler(x, z + i * 0.9, motor=True, ridden=False, along=along)

    def _two_wheeler(self, x: float, z: float, *, motor: bool, ridden: bool, along: bool) -> None:
        canvas, dice, style = self.canvas, self.dice, self.style
        half = 0.35 if along else 1.0
        corners = [(x - half, 0.0, z - 0.2), (x + half, 0.0, z - 0.2)]
        canvas.shadow([*corners, (x + half, 0.0, z + 0.5), (x - half, 0.0, z + 0.5)], 110)
        self.things.append(
            (
                z,
                lambda: people.draw_two_wheeler(
                    canvas, dice, style, (x, z), motor=motor, ridden=ridden, along=along
                ),
            )
        )

    def _walkers(self) -> None:
        dice, street = self.dice, self.street
        left = dice.whole(*self.style.walkers)
        while left > 0:
            group = min(left, dice.pick((1, 1, 2, 2, 3)))
            left -= group
            side = dice.pick(street.sides)
            if dice.chance(0.12):
                x, low = dice.between(-street.sides[0].curb, street.sides[1].curb), 9.0
            else:
                inner = side.curb + side.strip + 0.3
                x, low = side.sign * dice.between(inner, max(side.outer - 0.3, inner + 0.2)), 4.5
            z = self._in_sight(x, low, 20.0)
            for i in range(group):
                u, w = x + i * dice.between(0.45, 0.75), z + dice.between(-0.6, 0.6)
                if self._free(u, w, w):
                    self._stand(people.draw_person, u, w)
                    foot = [(u - 0.3, 0.0, w - 0.15), (u + 0.3, 0.0, w - 0.15)]
                    foot += [(u + 0.3, 0.0, w + 0.3), (u - 0.3, 0.0, w + 0.3)]
                    self.canvas.shadow(foot, 100)

    def _stand(
        self, draw: Callable[[Canvas, Dice, Style, float, float], None], x: float, z: float
    ) -> None:
        canvas, dice, style = self.canvas, self.dice, self.style
        self.things.append((z, lambda: draw(canvas, dice, style, x, z)))

    def _furnish(self, side: Side) -> None:
        dice, style = self.dice, self.style
        kerb = side.sign * (side.curb + 0.45)
        gaps = [lot for lot in side.lots if lot.kind == "gap"]

        def open_road(z: float) -> bool:
            return any(lot.near - 0.5 < z < lot.far + 0.5 for lot in gaps)

        z, pitch = dice.between(8, 22), dice.between(17, 32)
        while z < 90:
            if not open_road(z):
                self._stand(furniture.draw_lamp_post, kerb, z)
            z += pitch
        if dice.chance(style.trees * (1.3 if side.strip else 0.8)):
            middle = side.sign * (side.curb + max(side.strip / 2, 0.7))
            z, pitch = dice.between(6, 16), dice.between(7, 13)
            while z < min(self.street.far, 80.0):
                if not open_road(z) and dice.chance(0.8):
                    self._stand(furniture.draw_tree, middle, z)
                z += pitch
        for lot in gaps:
            if dice.chance(0.6) and lot.near > 7:
                self._stand(furniture.draw_signal, kerb, lot.near - dice.between(0.5, 1.5))
        if dice.chance(0.65):
            self._stand(furniture.draw_signal, kerb, self._in_sight(kerb, 6, 14))
        for _ in range(dice.whole(0, 3)):
            self._stand(furniture.draw_sign, kerb, self._in_sight(kerb, 6, 18))
        if dice.chance(0.25 + 0.3 * style.clutter):
            start, pitch = self._in_sight(kerb, 4, 14), dice.between(1.2, 2.5)
            for i in range(dice.whole(3, 9)):
                if not open_road(start + i * pitch):
                    self._stand(furniture.draw_bollard, kerb, start + i * pitch)
        if dice.chance(style.clutter):
            x = side.sign * (side.outer - 0.7)
            for _ in range(dice.whole(1, 3)):
                self._stand(furniture.draw_clutter, x, self._in_sight(x, 6, 25))
