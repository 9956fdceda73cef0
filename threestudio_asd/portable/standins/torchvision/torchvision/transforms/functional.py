from threestudio_asd.portable.placeholder import missing

__getattr__ = missing(__name__)
