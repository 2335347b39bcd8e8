"""Progress of a job that nobody watches."""


class Silent:
    def start(self, *_):
        pass

    set = start
